use super::*;
use crate::demo::record::percentile;
use std::net::Ipv4Addr;

fn spec(work_ms: u64, workers: usize) -> Spec {
    Spec { name: "catalog-1".into(), work: Duration::from_millis(work_ms), workers, seed: 7 }
}

fn start(spec: Spec, downstream: Option<Downstream>) -> Arc<Replica> {
    Replica::start(spec, bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap(), downstream).unwrap()
}

#[test]
fn service_times_have_the_mean_and_the_spread_that_they_should() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut values: Vec<f64> = (0..100_000).map(|_| log_normal(&mut rng, SIGMA)).collect();
    values.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let p99 = percentile(&values, 99).unwrap();
    assert!((mean - 1.0).abs() < 0.01 && (p99 - 2.34).abs() < 0.05, "{mean} {p99}");
}

#[test]
fn a_load_is_a_rate_that_forgets() {
    let (mut load, start) = (Load::default(), Instant::now());
    // A hundred a second of 20 ms each keep two workers busy.
    for i in 0..1000u64 {
        load.add(start + Duration::from_millis(10 * i), 0.02, i % 2 == 0);
    }
    assert!((load.requests - 100.0).abs() < 1.0 && (load.work - 2.0).abs() < 0.02, "{load:?}");
    assert!((load.errors - 50.0).abs() < 1.0, "{load:?}");
    load.add(start + Duration::from_secs(60), 0.02, false);
    assert!(load.requests < 1.1);
}

#[tokio::test]
async fn an_answer_names_its_replica_and_reports_its_load() {
    let replica = start(spec(1, 8), None);
    let answer = Client::new(replica.address).get("any", "/").await.unwrap();
    assert_eq!((answer.status, answer.headers[REPLICA].as_bytes()), (StatusCode::OK, &b"catalog-1"[..]));
    let report = crate::links::orca::Report::parse(answer.headers[LOAD].as_bytes()).unwrap();
    assert!(report.cpu_utilization.unwrap() > 0.0 && report.requests_per_second.unwrap() >= 1.0, "{report:?}");
    assert_eq!(report.errors_per_second, Some(0.0));
}

#[tokio::test]
async fn one_that_only_passes_on_answers_for_the_one_it_called() {
    let called = start(spec(1, 8), None);
    let downstream = |transparent| Some(Downstream { client: Client::new(called.address), host: "x", transparent });
    let front = start(Spec { name: "frontend".into(), ..spec(0, 8) }, downstream(true));
    let answer = Client::new(front.address).get("any", "/").await.unwrap();
    assert_eq!((answer.headers[REPLICA].as_bytes(), answer.headers.get(LOAD)), (&b"catalog-1"[..], None));
    called.crash().await;
    let answer = Client::new(front.address).get("any", "/").await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn requests_wait_for_a_worker_and_slowness_multiplies() {
    let replica = start(spec(5, 1), None);
    let time = async |n: usize| {
        let begun = Instant::now();
        let calls: Vec<_> = (0..n)
            .map(|_| {
                let replica = replica.clone();
                tokio::spawn(async move { Client::new(replica.address).get("any", "/").await.unwrap() })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        begun.elapsed()
    };
    // Bounds with room: the machine may be busy, but work cannot end early. Each draw exceeds a fifth of the mean.
    assert!(time(10).await >= Duration::from_millis(20), "ten times 5 ms on one worker, one after the other");
    replica.slow_down(40);
    assert!(time(1).await >= Duration::from_millis(40));
}

#[tokio::test]
async fn a_crash_loses_what_was_on_it_refuses_and_returns_on_the_same_address() {
    let replica = start(spec(10_000, 8), None);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let address = replica.address;
            tokio::spawn(async move { Client::new(address).get("any", "/").await })
        })
        .collect();
    while replica.in_flight() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(replica.crash().await, 3);
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(super::super::client::CallError::Http(_))));
    }
    assert_eq!(replica.in_flight(), 0);
    let client = Client::new(replica.address);
    let refused = client.get("any", "/").await;
    assert!(
        matches!(&refused, Err(super::super::client::CallError::Connect(e)) if e.kind() == io::ErrorKind::ConnectionRefused)
    );
    replica.resume().await.unwrap();
    replica.slow_down(0);
    assert_eq!(client.get("any", "/").await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn a_pooled_connection_that_the_other_side_closed_is_not_an_error() {
    let replica = start(spec(0, 8), None);
    let client = Client::new(replica.address);
    client.get("any", "/").await.unwrap();
    replica.crash().await;
    replica.resume().await.unwrap();
    client.get("any", "/").await.unwrap();
}
