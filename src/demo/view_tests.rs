use super::*;
use crate::demo::fleet::Fleet;
use crate::demo::story::Story;
use crate::demo::watch::{CandidateView, NodeView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::time::Duration;
use tokio::time::Instant;

fn stage() -> Stage {
    let fleet = Fleet::start(Policy::Model, 1).unwrap();
    let story = Story::new(Duration::from_secs(60)).unwrap();
    let stage = Stage::new(story, Instant::now(), &fleet, false);
    for i in 0..3000 {
        let due_s = f64::from(i) / 100.0;
        for (arm, record) in stage.records.iter().enumerate() {
            record.add(Sample {
                due_s,
                late_ms: 0.0,
                latency_ms: 20.0 * 10f64.powi(arm as i32),
                replica: Some(usize::from(i % 4 == 0)),
            });
        }
    }
    let candidates = stage.catalogs.iter().map(|c| CandidateView {
        workload: "frontend".into(),
        address: c.address.clone(),
        weight: Some(0.25),
        predicted_ms: Some(16.0),
        seen_ms: Some(17.0),
        health: "healthy".into(),
        reason: "predicted 16.0 ms at its fair share; left as it was".into(),
    });
    let view = View {
        generation: 42,
        cause: "latency".into(),
        rung: "model".into(),
        engine: "embedded (cpu)".into(),
        candidates: candidates.collect(),
        nodes: vec![NodeView { key: stage.storages[2].address.clone(), cpu: Some(0.75), ..NodeView::default() }],
        ..View::default()
    };
    stage.look(view);
    stage
}

fn drawn(stage: &Stage, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, stage, 30.0)).unwrap();
    let cells = terminal.backend().buffer().content().chunks(usize::from(width));
    cells.map(|row| row.iter().map(|c| c.symbol()).collect::<String>() + "\n").collect()
}

#[tokio::test]
async fn a_wide_screen_shows_the_graph_the_lines_and_the_log() {
    let text = drawn(&stage(), 150, 40);
    for word in [
        "30 s of 60 s",
        "storage-3 is ten times slower",
        "generation 42 (latency)",
        "engine embedded (cpu)",
        "frontend → catalog",
        "catalog-4",
        "25.0%",
        "storage-3",
        "75%",
        "model 20 ",
        "round robin 2000 ",
        "what happened",
        "healthy   left as it was",
        "requests are steered by model",
        "q leave",
    ] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}

#[tokio::test]
async fn a_screen_of_any_size_is_drawn() {
    let stage = stage();
    let look = format!("look inside: http://{admin}/   pathloom top --admin {admin} ", admin = stage.admin);
    assert!(
        drawn(&stage, 100, 30).contains(&look) && drawn(&stage, 80, 24).contains(&format!("http://{}/", stage.admin))
    );
    for (width, height) in [(80, 24), (100, 30), (20, 5), (1, 1), (300, 100)] {
        let text = drawn(&stage, width, height);
        assert!(width < 80 || text.contains("catalog-4"), "{text}");
    }
}

#[test]
fn bins_hold_only_what_was_due_in_them() {
    let sample = |due_s, latency_ms| Sample { due_s, late_ms: 0.0, latency_ms, replica: Some(0) };
    let samples = [sample(10.5, 10.0), sample(10.9, 100.0), sample(12.1, 1000.0), sample(12.9, 1.0)];
    assert_eq!(bins(&samples, 10.0, 13.0), [(10.5, 2.0), (12.5, 3.0)]);
}
