//! A model that is replaced: the running one stays until the new one is good, and whoever asks learns why it is not.

use super::*;

/// A scorer of real files on the embedded engine, and a folder with good and bad ones.
fn real() -> (Scorer, tempfile::TempDir, impl Fn(&str, Vec<u8>) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_path_buf();
    let write = move |name: &str, bytes: Vec<u8>| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    };
    let options = Options { file: BUILTIN.into(), engine: Choice::Embedded, device: Device::Cpu, onnxruntime: None };
    (Scorer::start(options), dir, write)
}

/// A file with the checksum of its graph added at its end, as an entry of the metadata.
fn with_checksum(file: &[u8]) -> Vec<u8> {
    let graph = crate::scorer::onnx::graph_bytes(file).unwrap();
    let digest: String = <sha2::Sha256 as sha2::Digest>::digest(graph).iter().map(|b| format!("{b:02x}")).collect();
    let field = |tag: u8, text: &[u8]| [&[tag, u8::try_from(text.len()).unwrap()], text].concat();
    let entry = [field(0x0a, b"pathloom.graph_sha256"), field(0x12, digest.as_bytes())].concat();
    [file, &field(0x72, &entry)].concat()
}

#[tokio::test]
async fn a_bad_model_on_reload_leaves_the_running_one_and_shows_why() {
    let (scorer, _dir, write) = real();
    let running = scorer.ready().await.unwrap();
    let good = Model::read(BUILTIN).unwrap().bytes.into_owned();
    // One bit in the middle of a matrix: no engine and no output would tell.
    let mut weights = with_checksum(&good);
    verify(&weights).unwrap();
    let third = weights.len() / 3;
    weights[third] ^= 1;
    let mut overwritten = good.clone();
    let middle = overwritten.len() / 4..overwritten.len() / 2;
    overwritten[middle].fill(0xff);
    let mut flipped = good.clone();
    let at = flipped.windows(17).position(|w| w == b"pathloom.contract").unwrap();
    flipped[at + 17 + 2] = b'7';
    let bad = [
        (write("short.onnx", good[..good.len() / 2].to_vec()), vec!["truncated"]),
        (write("empty.onnx", Vec::new()), vec!["not_onnx"]),
        (write("text.onnx", b"hello".to_vec()), vec!["not_onnx"]),
        (write("weights.onnx", weights), vec!["damaged"]),
        (write("overwritten.onnx", overwritten), vec!["warm_up", "engine", "not_onnx", "truncated", "damaged"]),
        (write("contract.onnx", flipped), vec!["other_contract"]),
        ("/nowhere.onnx".to_string(), vec!["missing"]),
    ];
    for (refused, (file, codes)) in bad.iter().enumerate() {
        let error = scorer.reload(file).await.unwrap_err();
        assert!(codes.contains(&error.code()), "{file}: {error}");
        println!("{error}");
        let status = scorer.status();
        assert_eq!((status.state, status.file.as_str()), (State::Ready, BUILTIN));
        assert_eq!(status.model.as_ref(), Some(&running));
        assert_eq!(status.model_error.unwrap().message, error.to_string());
        assert_eq!(status.reloads_refused, refused as u64 + 1);
        let scored = scorer.score(features(), SOON).await;
        assert_eq!((scored.result.is_ok(), scored.model.unwrap().digest.as_str()), (true, running.digest.as_str()));
    }
    assert_eq!((scorer.status().restarts, scorer.status().reloads), (0, 0));
}

#[tokio::test]
async fn a_good_model_takes_over_without_a_gap() {
    let (scorer, _dir, write) = real();
    let first = scorer.ready().await.unwrap();
    let mut bytes = Model::read(BUILTIN).unwrap().bytes.into_owned();
    // A field that nobody knows makes another file of the same model.
    bytes.extend_from_slice(&[0xfa, 0x07, 0x01, 0x00]);
    let other = write("other.onnx", bytes);
    let asking = scorer.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let asked = tokio::spawn(async move {
        let (mut digests, mut count) = (std::collections::BTreeSet::new(), 0);
        while !stopped.load(SeqCst) {
            let scored = asking.score(features(), SOON).await;
            scored.result.unwrap();
            digests.insert(scored.model.unwrap().digest.clone());
            count += 1;
        }
        (digests.len(), count)
    });
    for turn in 0..20 {
        let file = if turn % 2 == 0 { other.as_str() } else { BUILTIN };
        let info = scorer.reload(file).await.unwrap();
        assert_eq!(info.digest == first.digest, turn % 2 == 1);
        assert_eq!(scorer.status().file, file);
        // At least one inference on each.
        let count = scorer.status().inferences;
        eventually("an inference", || scorer.status().inferences > count + 1).await;
    }
    stop.store(true, SeqCst);
    let (models, count) = asked.await.unwrap();
    assert!(models == 2 && count > 20, "{models} models, {count} inferences");
    let status = scorer.status();
    assert_eq!((status.reloads, status.restarts, status.errors.values().sum::<u64>()), (20, 0, 0));
    eventually("the old threads end", || scorer.status().hung_threads == 0).await;
}

#[tokio::test]
async fn a_model_that_is_missing_on_start_is_taken_when_it_appears() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late.onnx");
    let file = path.to_str().unwrap().to_string();
    let options = Options { file, engine: Choice::Embedded, device: Device::Cpu, onnxruntime: None };
    let scorer = Scorer::start_with(options, quick());
    assert_eq!(scorer.ready().await.unwrap_err().code(), "missing");
    assert!(scorer.status().not_ready.unwrap().contains("late.onnx"));
    let written = dir.path().join("new");
    std::fs::write(&written, &Model::read(BUILTIN).unwrap().bytes).unwrap();
    std::fs::rename(written, path).unwrap();
    until(&scorer, "ok").await;
    assert!(scorer.status().model_error.is_none());
    assert_eq!(scorer.ready().await.unwrap().contract, CONTRACT_VERSION);
}

#[tokio::test]
async fn of_two_reloads_the_later_wins() {
    let (stage, loads) = (Stage::new(&[]), Arc::new(AtomicUsize::new(0)));
    let (factory, count) = (Arc::clone(&stage), Arc::clone(&loads));
    let scorer = Scorer::with_engine_and_limits(
        move || {
            // The second load, the first reload, is the slow one.
            if count.fetch_add(1, SeqCst) == 1 {
                std::thread::sleep(Duration::from_millis(150));
            }
            Ok(factory.engine())
        },
        quick(),
    );
    scorer.ready().await.unwrap();
    let earlier = scorer.clone();
    let first = tokio::spawn(async move { earlier.reload("first").await });
    eventually("the first reload loads", || loads.load(SeqCst) == 2).await;
    assert_eq!(scorer.reload("second").await.unwrap().digest, "second");
    assert_eq!(first.await.unwrap().unwrap_err(), ModelError::Superseded);
    assert_eq!(scorer.status().file, "second");
    assert_eq!((code(&scorer, 20_000).await, scorer.status().reloads), ("ok", 1));
}

#[tokio::test]
async fn a_reload_that_takes_too_long_is_refused_and_cannot_take_over_later() {
    let (stage, loads) = (Stage::new(&[]), AtomicUsize::new(0));
    let factory = Arc::clone(&stage);
    let scorer = Scorer::with_engine_and_limits(
        move || {
            if loads.fetch_add(1, SeqCst) == 1 {
                std::thread::sleep(Duration::from_millis(400));
            }
            Ok(factory.engine())
        },
        Limits { load: Duration::from_millis(100), ..quick() },
    );
    scorer.ready().await.unwrap();
    assert_eq!(scorer.reload("slow").await.unwrap_err().code(), "too_slow");
    eventually("the late candidate is dropped", || stage.dropped.load(SeqCst) == 1).await;
    assert_eq!((scorer.status().file.as_str(), code(&scorer, 20_000).await), ("injected", "ok"));
    assert_eq!(scorer.status().model_error.unwrap().code, "too_slow");
}

#[tokio::test]
async fn the_status_is_plain_data_with_every_code() {
    let scorer = Stage::new(&[]).scorer(quick());
    scorer.ready().await.unwrap();
    assert_eq!(code(&scorer, 20_000).await, "ok");
    let json = serde_json::to_value(scorer.status()).unwrap();
    assert_eq!((json["state"].as_str(), json["engine"]["engine"].as_str()), (Some("ready"), Some("injected")));
    for code in ScoreError::CODES {
        assert_eq!(json["errors"][code], 0, "{code}");
    }
    let errors = [
        ScoreError::Busy,
        ScoreError::TooSlow { deadline: SOON },
        ScoreError::NotReady { reason: String::new() },
        ScoreError::Engine { reason: String::new() },
        ScoreError::Shape { output: "score", expected: 1, found: String::new() },
        ScoreError::Features { reason: String::new() },
        ScoreError::Crashed { reason: String::new() },
        ScoreError::Stopped,
    ];
    assert_eq!(errors.map(|error| error.code()), ScoreError::CODES);
}
