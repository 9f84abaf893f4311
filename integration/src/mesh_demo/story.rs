//! What happens, what is promised, and what came of it.
//!
//! What node-a's sidecar does by what others told alone is shown by one that has called nobody yet: it is started anew for it.
//! With requests under way it would soon see by itself that a catalog has become slow; what sharing adds then is
//! counted.

use crate::nodes::{A, ALONE, Answers, B, C, Nodes};
use pathloom_integration::wait;
use std::time::{Duration, Instant};

/// How slow the storage turns.
const TROUBLE: Duration = Duration::from_millis(400);
/// A link is known to be slow from here on, in milliseconds.
const SLOW_MS: f64 = 200.0;
/// The least weight that counts as a fair one of two, and the most that counts as moved away.
const FAIR: f64 = 0.35;
const AWAY: f64 = 0.30;
/// So many ticks may pass until traffic has moved.
const TICKS: u64 = 3;
/// No wrong route may live longer.
const WRONG: Duration = Duration::from_secs(10);
/// So many times as long, where the machine is busy with something else.
const BUSY: u32 = 3;
/// How long anything may take at all, on a machine that is busy with something else.
const LIMIT: Duration = Duration::from_secs(120);
/// How many requests show where traffic goes.
const REQUESTS: usize = 200;
/// How many requests a second a frontend sends that is under way, and for how long.
const RATE: u32 = 5;
const PACED: Duration = Duration::from_secs(15);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

/// The story.
pub struct Story {
    nodes: Nodes,
    patient: bool,
    kept: bool,
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

impl Story {
    pub fn new(nodes: Nodes, patient: bool) -> Self {
        Self { nodes, patient, kept: true }
    }

    /// Tells it; whether all promises were kept.
    pub async fn tell(mut self) -> bool {
        println!(
            "node-a: the frontend.  node-b, node-c: a catalog with its storage.  A batch on node-c calls both catalogs.\nA sidecar on each node; one more on node-a shares nothing.\n\
             They share by {}.\n",
            self.nodes.way()
        );
        self.meet().await;
        self.trouble_two_hops_away().await;
        self.trouble_with_traffic().await;
        self.a_node_cut_off().await;
        self.sidecars_killed_that_told_what_is_wrong_now().await;
        self.a_sidecar_killed_that_was_told().await;
        self.nodes.assert_no_panic();
        println!("\n{}", if self.kept { "All promises were kept." } else { "NOT ALL PROMISES WERE KEPT." });
        self.kept
    }

    fn promise(&mut self, what: &str, kept: bool) {
        println!("  {} {what}", if kept { "[kept]  " } else { "[BROKEN]" });
        self.kept &= kept;
    }

    /// A promise that has to do with time, of which there is more on a machine that is busy.
    fn promise_within(&mut self, what: &str, took: Duration, limit: Duration) {
        let limit = if self.patient { limit * BUSY } else { limit };
        self.promise(&format!("{what}: {} (at most {})", seconds(took), seconds(limit)), took <= limit);
    }

    async fn meet(&mut self) {
        println!("1. They meet.");
        let begun = Instant::now();
        for host in [B, C] {
            self.until_told(A, host, "what others see", |ms| ms < SLOW_MS).await;
        }
        println!(
            "  node-a knows both storages' links, which start on other nodes, after {}.",
            seconds(begun.elapsed())
        );
        self.until_weights("fair shares", |[b, c]| b > FAIR && c > FAIR).await;
    }

    /// node-a's sidecar is started anew, so that it has called nobody, and knows what others see.
    async fn that_called_nobody(&mut self) {
        self.nodes.kill_sidecar(A).await;
        self.nodes.start_sidecar(A).await;
        for host in [B, C] {
            self.until_told(A, host, "what others see", |ms| ms < SLOW_MS).await;
        }
        self.until_weights("fair shares", |[b, c]| b > FAIR && c > FAIR).await;
    }

    async fn trouble_two_hops_away(&mut self) {
        println!(
            "\n2. storage-b, behind catalog-b, turns slow by {} ms. The frontend has called nobody yet.",
            TROUBLE.as_millis()
        );
        let (mut last, weights) = self.nodes.weights(A).await;
        println!("  tick  weight of catalog-b, catalog-c");
        println!("     0  {:.2}, {:.2}", weights[0], weights[1]);
        let (fault, begun) = (last, Instant::now());
        self.nodes.slow("storage-b", TROUBLE);
        let mut heard = None;
        let away = wait::within(LIMIT, "traffic to move away", async || {
            let (tick, [b, c]) = self.nodes.weights(A).await;
            if heard.is_none() && self.nodes.told(A, B).await.is_some_and(|(_, ms)| ms > SLOW_MS) {
                heard = Some((last, begun.elapsed()));
            }
            if tick > last {
                last = tick;
                println!("  {:4}  {b:.2}, {c:.2}", tick - fault);
            }
            tokio::time::sleep(LOOK).await;
            if b < AWAY { Ok(tick) } else { Err(format!("{b} in {tick}")) }
        })
        .await;
        let took = begun.elapsed();
        // The tick that showed it first may be the one that acted on it.
        let (heard, after) = heard.unwrap_or((away.saturating_sub(1), took));
        println!(
            "  Word of it was in node-a's graph after {}; {} after the fault its traffic had moved.",
            seconds(after),
            seconds(took)
        );
        let ticks = away.saturating_sub(heard);
        let what = format!("moved within {TICKS} ticks of the word of it: {ticks}; {} since the fault", away - fault);
        self.promise(&what, ticks <= TICKS);
        let asked = self.asked().await;
        self.promise("by what others told alone: the frontend has called nobody", asked == 0.0);
        let shared = self.nodes.requests(A, REQUESTS).await;
        let alone = self.nodes.requests(ALONE, REQUESTS).await;
        println!(
            "  Its first {REQUESTS} requests through the sidecar that shares: {}, the slowest {} ms;",
            said(&shared),
            shared.slowest.as_millis()
        );
        println!("  through the one that does not: {}, the slowest {} ms.", said(&alone), alone.slowest.as_millis());
        self.promise("nobody's request fails", shared.failed + alone.failed == 0);
        self.promise("most requests avoid the slow side", shared.of("catalog-b") * 4 < REQUESTS);
        self.recovers("storage-b").await;
    }

    /// The same with requests under way.
    async fn trouble_with_traffic(&mut self) {
        println!("\n3. The same while the frontend sends {RATE} requests a second through each of its sidecars.");
        let both = async |nodes: &Nodes| {
            let (shared, alone) = tokio::join!(nodes.paced(A, RATE, PACED), nodes.paced(ALONE, RATE, PACED));
            [("that shares", shared), ("that does not", alone)]
        };
        both(&self.nodes).await;
        self.nodes.slow("storage-b", TROUBLE);
        for (name, answers) in both(&self.nodes).await {
            println!(
                "  In {} through the sidecar {name}: {}; {} of them slow.",
                seconds(PACED),
                said(&answers),
                answers.slow
            );
            self.promise("no request fails", answers.failed == 0);
        }
        self.recovers("storage-b").await;
    }

    /// A storage is as fast as before, and shares are fair again.
    async fn recovers(&mut self, storage: &str) {
        self.nodes.slow(storage, Duration::ZERO);
        let begun = Instant::now();
        self.until_weights("fair shares again", |[b, c]| b > FAIR && c > FAIR).await;
        println!("  {storage} recovers; shares are fair again after {}.", seconds(begun.elapsed()));
    }

    async fn a_node_cut_off(&mut self) {
        println!("\n4. storage-b is slow again, traffic has moved, and then node-b is cut off.");
        self.that_called_nobody().await;
        self.nodes.slow("storage-b", TROUBLE);
        self.until_weights("traffic to move away", |[b, _]| b < AWAY).await;
        self.nodes.hosts.cut(B, true);
        let begun = Instant::now();
        let answers = self.nodes.requests(A, REQUESTS).await;
        println!(
            "  {REQUESTS} requests, one after another: {}, the slowest {} ms.",
            said(&answers),
            answers.slowest.as_millis()
        );
        self.promise("every request is answered by who is still there", answers.of("catalog-c") == REQUESTS);
        self.until_forgotten(A, B).await;
        self.promise_within("what node-b told is forgotten", begun.elapsed(), WRONG);
        let still = self.nodes.told(A, C).await;
        self.promise("what node-c tells is still there", still.is_some_and(|(by, _)| by == "node-c"));
        self.nodes.slow("storage-b", Duration::ZERO);
        self.nodes.hosts.cut(B, false);
        let begun = Instant::now();
        self.until_told(A, B, "word of node-b", |_| true).await;
        println!("  The cut is mended: node-a hears of node-b again after {}.", seconds(begun.elapsed()));
        wait::within(LIMIT, "both catalogs to be asked", async || {
            let answers = self.nodes.requests(A, 50).await;
            if answers.of("catalog-b") >= 10 && answers.failed == 0 { Ok(()) } else { Err(said(&answers)) }
        })
        .await;
        self.until_weights("fair shares", |[b, c]| b > FAIR && c > FAIR).await;
        println!("  Both catalogs get their share again after {}.", seconds(begun.elapsed()));
        let metrics = self.nodes.metrics(A).await;
        self.promise("both others are peers again", metrics.get("pathloom_mesh_peers", &[]) == Some(2.0));
    }

    async fn sidecars_killed_that_told_what_is_wrong_now(&mut self) {
        println!(
            "\n5. storage-b is slow, the others' sidecars say so, and are killed at the moment that it recovers; then started anew."
        );
        self.that_called_nobody().await;
        self.nodes.slow("storage-b", TROUBLE);
        self.until_weights("traffic to move away", |[b, _]| b < AWAY).await;
        for sidecar in [B, C] {
            self.nodes.kill_sidecar(sidecar).await;
        }
        self.nodes.slow("storage-b", Duration::ZERO);
        let begun = Instant::now();
        self.until_weights("what they told to have no effect", |[b, c]| b > FAIR && c > FAIR).await;
        self.promise_within("the wrong route has lived", begun.elapsed(), WRONG);
        self.until_forgotten(A, B).await;
        self.promise_within("and its reason is forgotten", begun.elapsed(), WRONG);
        let begun = Instant::now();
        for sidecar in [B, C] {
            self.nodes.start_sidecar(sidecar).await;
        }
        for host in [B, C] {
            self.until_told(A, host, "what the new process tells", |ms| ms < SLOW_MS).await;
        }
        println!("  Started anew, they are heard after {}.", seconds(begun.elapsed()));
    }

    async fn a_sidecar_killed_that_was_told(&mut self) {
        println!("\n6. storage-b is slow, and node-a's own sidecar is killed and started anew.");
        self.that_called_nobody().await;
        self.nodes.slow("storage-b", TROUBLE);
        self.until_weights("traffic to move away", |[b, _]| b < AWAY).await;
        self.nodes.kill_sidecar(A).await;
        let begun = Instant::now();
        self.nodes.start_sidecar(A).await;
        self.until_weights("it to know better than equal shares", |[b, _]| b < AWAY).await;
        self.promise_within("killed, started, and steering around what it never saw", begun.elapsed(), WRONG);
        self.recovers("storage-b").await;
        let answers = self.nodes.requests(A, REQUESTS).await;
        println!("  {REQUESTS} requests, one after another: {}.", said(&answers));
        self.promise("every request is answered", answers.failed == 0);
    }

    /// How many requests node-a's sidecar got.
    async fn asked(&self) -> f64 {
        self.nodes.metrics(A).await.sum("pathloom_requests_total", &[])
    }

    async fn until_weights(&self, what: &str, hold: impl Fn([f64; 2]) -> bool) {
        wait::within(LIMIT, what, async || {
            let (_, weights) = self.nodes.weights(A).await;
            tokio::time::sleep(LOOK).await;
            if hold(weights) { Ok(()) } else { Err(format!("{weights:?}")) }
        })
        .await;
    }

    async fn until_told(&self, sidecar: usize, host: usize, what: &str, is: impl Fn(f64) -> bool) {
        wait::within(LIMIT, what, async || {
            let told = self.nodes.told(sidecar, host).await;
            tokio::time::sleep(LOOK).await;
            if told.as_ref().is_some_and(|(_, ms)| is(*ms)) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    }

    async fn until_forgotten(&self, sidecar: usize, host: usize) {
        wait::within(LIMIT, "it to be forgotten", async || {
            let told = self.nodes.told(sidecar, host).await;
            tokio::time::sleep(LOOK).await;
            if told.is_none() { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    }
}

fn said(answers: &Answers) -> String {
    let by: Vec<String> = answers.by.iter().map(|(name, count)| format!("{count} by {name}")).collect();
    let failed = if answers.failed == 0 { String::new() } else { format!(", {} failed", answers.failed) };
    by.join(", ") + &failed
}
