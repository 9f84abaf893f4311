//! What becomes of answers, by a server that is a script. What servers do on the wire is tested end to end.

use super::ask::Answer;
use super::*;
use crate::discovery::finds::Report;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::watch;

/// Answers by name and kind (`4`, `6`, `srv`); what is not scripted does not exist.
#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<(String, &'static str), Answer<String>>>,
    questions: AtomicUsize,
    /// Each question, in their order.
    log: Mutex<Vec<(String, &'static str)>>,
}

impl Script {
    fn says(&self, name: &str, kind: &'static str, answer: Answer<String>) {
        self.answers.lock().unwrap().insert((name.to_owned(), kind), answer);
    }

    fn records(&self, name: &str, kind: &'static str, records: &[&str], ttl_s: u64) {
        let records = records.iter().map(|r| (*r).to_owned()).collect();
        self.says(name, kind, Answer::Records(records, Duration::from_secs(ttl_s)));
    }

    fn fails(&self, name: &str, kind: &'static str, fault: Fault) {
        self.says(name, kind, Answer::Failed(fault, "as scripted".to_owned()));
    }

    fn of<T>(&self, name: &str, kind: &'static str, read: impl Fn(&str) -> T) -> Answer<T> {
        self.questions.fetch_add(1, SeqCst);
        self.log.lock().unwrap().push((name.to_owned(), kind));
        match self.answers.lock().unwrap().get(&(name.to_owned(), kind)) {
            Some(Answer::Records(records, ttl)) => Answer::Records(records.iter().map(|r| read(r)).collect(), *ttl),
            Some(Answer::Nothing(fault, ttl)) => Answer::Nothing(*fault, *ttl),
            Some(Answer::Failed(fault, text)) => Answer::Failed(*fault, text.clone()),
            None => Answer::Nothing(Fault::NoSuchName, None),
        }
    }
}

#[async_trait]
impl Asked for Script {
    async fn addresses(&self, name: &str, family: Family) -> Answer<IpAddr> {
        let kind = if family == Family::V4 { "4" } else { "6" };
        self.of(name, kind, |address| address.parse().unwrap())
    }

    /// `priority weight port target`
    async fn services(&self, name: &str) -> Answer<Srv> {
        self.of(name, "srv", |record| {
            let parts: Vec<&str> = record.split(' ').collect();
            let number = |i: usize| parts[i].parse().unwrap();
            Srv { priority: number(0), weight: number(1), port: number(2), target: parts[3].to_owned() }
        })
    }
}

/// The source at work, what it tells, and what it asks.
struct Bench {
    script: Arc<Script>,
    told: watch::Receiver<Report>,
    _running: JoinSet<()>,
}

impl Bench {
    fn start(name: &str, port: Option<u16>, script: impl FnOnce(&Script)) -> Self {
        let asked = Arc::new(Script::default());
        script(&asked);
        let (finds, told) = Finds::new(name.to_owned(), Arc::default());
        let source = Dns { name: name.to_owned(), port, most: 10, asked: asked.clone() };
        let mut running = JoinSet::new();
        running.spawn(Box::new(source).run(finds));
        Self { script: asked, told, _running: running }
    }

    /// What it tells once it said something further.
    async fn next(&mut self) -> Report {
        self.told.changed().await.unwrap();
        self.told.borrow_and_update().clone()
    }

    /// How often it asks each of these within so many seconds.
    async fn asked_within<const N: usize>(&self, seconds: u64, questions: [(&str, &'static str); N]) -> [usize; N] {
        self.script.log.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let log = self.script.log.lock().unwrap();
        questions.map(|(name, kind)| log.iter().filter(|asked| (asked.0.as_str(), asked.1) == (name, kind)).count())
    }

    async fn questions_within(&self, seconds: u64) -> usize {
        let before = self.script.questions.load(SeqCst);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.script.questions.load(SeqCst) - before
    }
}

fn endpoints(report: &Report) -> Vec<String> {
    let found = report.listing.iter().flat_map(|listing| listing.found());
    found.map(|f| format!("{}*{}", f.endpoint.address, f.endpoint.weight)).collect()
}

fn fault(report: &Report) -> Option<Fault> {
    report.trouble.as_ref().map(|trouble| trouble.fault)
}

#[tokio::test(start_paused = true)]
async fn addresses_of_both_families_are_endpoints() {
    let mut bench = Bench::start("catalog.shop", Some(8080), |script| {
        script.records("catalog.shop", "4", &["10.0.0.2", "10.0.0.1", "10.0.0.2"], 5);
        script.records("catalog.shop", "6", &["fd00::1"], 60);
    });
    let report = bench.next().await;
    assert_eq!(endpoints(&report), ["10.0.0.1:8080*1", "10.0.0.2:8080*1", "[fd00::1]:8080*1"]);
    assert_eq!(fault(&report), None);
    // Asked again when the first of them is too old, and what is new is told.
    let since = Instant::now();
    bench.script.records("catalog.shop", "4", &["10.0.0.3"], 5);
    let report = bench.next().await;
    assert_eq!(endpoints(&report), ["10.0.0.3:8080*1", "[fd00::1]:8080*1"]);
    assert!((5.0..=5.6).contains(&since.elapsed().as_secs_f64()), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_nothing_is_no_storm_and_one_of_a_day_is_no_day() {
    let mut bench = Bench::start("a.b", Some(1), |script| script.records("a.b", "4", &["10.0.0.1"], 0));
    bench.next().await;
    let asked = bench.questions_within(60).await;
    assert!((100..=122).contains(&asked), "two questions a second at most: {asked}");
    bench.script.records("a.b", "4", &["10.0.0.1"], 86_400);
    bench.next().await;
    bench.next().await;
    let since = Instant::now();
    bench.next().await;
    assert!((300.0..=331.0).contains(&since.elapsed().as_secs_f64()), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_the_last_endpoints_stay_and_the_reason_is_told() {
    let mut bench = Bench::start("a.b", Some(1), |script| script.records("a.b", "4", &["10.0.0.1"], 1));
    assert_eq!(endpoints(&bench.next().await), ["10.0.0.1:1*1"]);
    for wrong in [Fault::Timeout, Fault::ServerFailure, Fault::Unreachable, Fault::Invalid] {
        bench.script.fails("a.b", "4", wrong);
        let report = bench.next().await;
        assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.1:1*1".to_owned()], Some(wrong)));
    }
    for wrong in [Fault::NoSuchName, Fault::NoRecords] {
        bench.script.says("a.b", "4", Answer::Nothing(wrong, Some(Duration::from_secs(3_600))));
        bench.script.says("a.b", "6", Answer::Nothing(wrong, Some(Duration::from_secs(3_600))));
        let report = bench.next().await;
        assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.1:1*1".to_owned()], Some(wrong)));
    }
    // A service that is made meanwhile is found within half a minute, whatever the zone's negative TTL.
    let since = Instant::now();
    bench.script.records("a.b", "4", &["10.0.0.2"], 1);
    let report = bench.next().await;
    assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.2:1*1".to_owned()], None));
    assert!(since.elapsed() <= Duration::from_secs(33), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_believed_for_as_long_as_the_zone_says() {
    let mut bench = Bench::start("a.b", Some(1), |script| {
        let nothing = Answer::Nothing(Fault::NoSuchName, Some(Duration::from_secs(20)));
        ["4", "6"].iter().for_each(|kind| script.says("a.b", kind, nothing.clone()));
    });
    assert_eq!(fault(&bench.next().await), Some(Fault::NoSuchName));
    assert_eq!(bench.questions_within(19).await, 0);
    assert_eq!(bench.questions_within(4).await, 2, "once again, for both families");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_asked_less_and_less_often() {
    let bench = Bench::start("a.b", Some(1), |script| {
        script.fails("a.b", "4", Fault::Timeout);
        script.fails("a.b", "6", Fault::Timeout);
    });
    let early = bench.questions_within(10).await;
    assert!((6..=10).contains(&early), "{early}");
    bench.questions_within(120).await;
    let later = bench.questions_within(300).await;
    assert!((16..=22).contains(&later), "every 30 s: {later}");
}

#[tokio::test(start_paused = true)]
async fn what_one_family_does_not_answer_stays_as_it_was() {
    let mut bench = Bench::start("a.b", Some(1), |script| {
        script.records("a.b", "4", &["10.0.0.1"], 1);
        script.records("a.b", "6", &["fd00::1"], 1);
    });
    bench.next().await;
    bench.script.fails("a.b", "6", Fault::ServerFailure);
    bench.script.records("a.b", "4", &["10.0.0.2"], 1);
    let report = bench.next().await;
    assert_eq!(endpoints(&report), ["10.0.0.2:1*1", "[fd00::1]:1*1"]);
    assert_eq!(fault(&report), Some(Fault::ServerFailure), "half of it is not known");
    bench.script.says("a.b", "6", Answer::Nothing(Fault::NoRecords, None));
    let report = bench.next().await;
    assert_eq!(
        (endpoints(&report), fault(&report)),
        (vec!["10.0.0.2:1*1".to_owned()], None),
        "it has none, and that is known"
    );
}

#[tokio::test(start_paused = true)]
async fn srv_records_bring_ports_and_weights_and_the_lowest_priority_counts() {
    let mut bench = Bench::start("_http._tcp.a.b", None, |script| {
        script.records("_http._tcp.a.b", "srv", &["10 5 81 one.", "10 0 82 two.", "20 9 83 spare."], 1);
        script.records("one.", "4", &["10.0.0.1", "10.0.0.2"], 60);
        script.records("two.", "4", &["10.0.0.1"], 60);
        script.records("spare.", "4", &["10.0.0.9"], 60);
    });
    assert_eq!(endpoints(&bench.next().await), ["10.0.0.1:81*5", "10.0.0.1:82*1", "10.0.0.2:81*5"]);
    bench.script.records("_http._tcp.a.b", "srv", &["10 0 81 one.", "10 0 82 two."], 1);
    assert_eq!(endpoints(&bench.next().await), ["10.0.0.1:81*1", "10.0.0.1:82*1", "10.0.0.2:81*1"]);
    // No target of the first priority exists any more: the spare one's turn.
    bench.script.records("_http._tcp.a.b", "srv", &["10 5 81 gone.", "20 9 83 spare."], 1);
    assert_eq!(endpoints(&bench.next().await), ["10.0.0.9:83*9"]);
    // The root says that there is no such service; what there was stays.
    bench.script.records("_http._tcp.a.b", "srv", &["0 0 0 ."], 1);
    let report = bench.next().await;
    assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.9:83*9".to_owned()], Some(Fault::NoRecords)));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_asked_for_keeps_its_addresses() {
    let mut bench = Bench::start("_http._tcp.a.b", None, |script| {
        script.records("_http._tcp.a.b", "srv", &["1 1 81 one.", "1 1 82 two."], 1);
        script.records("one.", "4", &["10.0.0.1"], 1);
        script.records("two.", "4", &["10.0.0.2"], 1);
    });
    bench.next().await;
    bench.script.records("one.", "4", &["10.0.0.3"], 1);
    bench.script.fails("two.", "4", Fault::Timeout);
    let report = bench.next().await;
    assert_eq!(endpoints(&report), ["10.0.0.2:82*1", "10.0.0.3:81*1"]);
    assert_eq!(fault(&report), Some(Fault::Timeout));
    bench.script.records("two.", "6", &["fd00::2"], 1);
    let report = bench.next().await;
    assert_eq!(endpoints(&report), ["10.0.0.2:82*1", "10.0.0.3:81*1", "[fd00::2]:82*1"]);
    bench.script.says("two.", "4", Answer::Nothing(Fault::NoSuchName, None));
    bench.script.says("two.", "6", Answer::Nothing(Fault::NoSuchName, None));
    let report = bench.next().await;
    assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.3:81*1".to_owned()], Some(Fault::NoSuchName)));
}

fn nothing(fault: Fault, ttl_s: u64) -> Answer<String> {
    Answer::Nothing(fault, Some(Duration::from_secs(ttl_s)))
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_beside_a_full_one_is_kept_for_its_own_time() {
    let mut bench = Bench::start("a.b", Some(1), |script| {
        script.records("a.b", "4", &["10.0.0.1"], 5);
        script.says("a.b", "6", nothing(Fault::NoRecords, 60));
    });
    bench.next().await;
    let [full, empty] = bench.asked_within(59, [("a.b", "4"), ("a.b", "6")]).await;
    assert!((10..=11).contains(&full) && empty == 0, "{full} {empty}");
    bench.script.records("a.b", "6", &["fd00::1"], 5);
    let [_, empty] = bench.asked_within(7, [("a.b", "4"), ("a.b", "6")]).await;
    assert!((1..=2).contains(&empty), "its time is over: {empty}");
    bench.told.borrow_and_update();
    assert_eq!(endpoints(&bench.next().await), ["10.0.0.1:1*1", "[fd00::1]:1*1"]);
    // A day is no day here, either; and what came without a time is asked for whenever the other one is.
    bench.script.says("a.b", "6", nothing(Fault::NoRecords, 86_400));
    bench.questions_within(6).await;
    let [_, empty] = bench.asked_within(310, [("a.b", "4"), ("a.b", "6")]).await;
    assert_eq!(empty, 1, "after 5 minutes");
    bench.script.says("a.b", "6", Answer::Nothing(Fault::NoRecords, None));
    bench.questions_within(301).await;
    let [full, empty] = bench.asked_within(60, [("a.b", "4"), ("a.b", "6")]).await;
    assert!(full >= 10 && empty == full, "{full} {empty}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_loses_its_addresses_is_asked_for_whole_within_half_a_minute() {
    let mut bench = Bench::start("a.b", Some(1), |script| {
        script.records("a.b", "4", &["10.0.0.1"], 5);
        script.says("a.b", "6", nothing(Fault::NoRecords, 3_600));
    });
    bench.next().await;
    bench.script.says("a.b", "4", nothing(Fault::NoRecords, 3_600));
    assert_eq!(fault(&bench.next().await), Some(Fault::NoRecords));
    let since = Instant::now();
    bench.script.records("a.b", "6", &["fd00::1"], 5);
    assert_eq!(endpoints(&bench.next().await), ["[fd00::1]:1*1"]);
    assert!(since.elapsed() <= Duration::from_secs(33), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_does_not_exist_is_asked_for_again_when_its_own_time_is_over() {
    let mut bench = Bench::start("_http._tcp.a.b", None, |script| {
        script.records("_http._tcp.a.b", "srv", &["1 1 81 one.", "1 1 82 gone."], 5);
        script.records("one.", "4", &["10.0.0.1"], 5);
        ["4", "6"].iter().for_each(|kind| script.says("gone.", kind, nothing(Fault::NoSuchName, 25)));
    });
    let report = bench.next().await;
    assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.1:81*1".to_owned()], Some(Fault::NoSuchName)));
    let [one, gone] = bench.asked_within(24, [("one.", "4"), ("gone.", "4")]).await;
    assert!((4..=5).contains(&one) && gone == 0, "each 5 s, and no sooner for the one that is missing: {one} {gone}");
    bench.script.records("gone.", "4", &["10.0.0.2"], 5);
    bench.told.borrow_and_update();
    let report = bench.next().await;
    assert_eq!((endpoints(&report), fault(&report)), (vec!["10.0.0.1:81*1".into(), "10.0.0.2:82*1".into()], None));
}

#[tokio::test(start_paused = true)]
async fn targets_that_do_not_exist_are_remembered_while_spare_ones_serve() {
    let mut bench = Bench::start("_http._tcp.a.b", None, |script| {
        script.records("_http._tcp.a.b", "srv", &["1 1 81 gone.", "2 1 82 spare."], 5);
        script.records("spare.", "4", &["10.0.0.9"], 5);
        ["4", "6"].iter().for_each(|kind| script.says("gone.", kind, nothing(Fault::NoSuchName, 25)));
    });
    assert_eq!(endpoints(&bench.next().await), ["10.0.0.9:82*1"]);
    let [spare, gone] = bench.asked_within(24, [("spare.", "4"), ("gone.", "6")]).await;
    assert!((4..=5).contains(&spare) && gone == 0, "{spare} {gone}");
    let [gone] = bench.asked_within(10, [("gone.", "6")]).await;
    assert_eq!(gone, 1);
}
