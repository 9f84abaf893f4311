use super::*;
use crate::admin::{fixture, graph, routing};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyEvent;
use serde_json::json;

/// What a proxy says that is shown as the fixture has it, so many failures long.
fn snapshot(failures: u64, at: Instant) -> Snapshot {
    let state = fixture::published();
    let routing = routing::routing(&state, routing::Filter::default()).unwrap();
    let graph = graph::graph(Some(&fixture::view(&state)), None, None);
    let metrics = format!(
        "pathloom_requests_total{{workload=\"frontend\",cluster=\"catalog\",status_class=\"2xx\"}} {}\n\
         pathloom_request_failures_total{{workload=\"frontend\",cluster=\"catalog\",reason=\"connect_refused\"}} {failures}\n\
         pathloom_request_failures_total{{workload=\"frontend\",cluster=\"catalog\",reason=\"loop\"}} 0\n\
         pathloom_unrouted_requests_total{{reason=\"no_route\"}} 7\n",
        failures * 10
    );
    Snapshot::new(routing, &graph, &metrics, at)
}

fn screen(sheet: Sheet) -> Screen {
    let mut screen = Screen::new(sheet, String::new(), "127.0.0.1:9900".into());
    let now = Instant::now();
    screen.take(Ok(snapshot(10, now)));
    screen.take(Ok(snapshot(30, now + Duration::from_secs(2))));
    screen
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    let rows = terminal.backend().buffer().content().chunks(usize::from(width));
    rows.map(|row| row.iter().map(|c| c.symbol()).collect::<String>() + "\n").collect()
}

fn press(screen: &mut Screen, code: KeyCode) -> bool {
    pressed(screen, KeyEvent::new(code, KeyModifiers::NONE))
}

/// The line that holds a word, among those of a frame.
fn line<'a>(text: &'a str, word: &str) -> &'a str {
    text.lines().find(|l| l.contains(word)).unwrap_or_else(|| panic!("{word} is not in\n{text}"))
}

#[test]
fn a_wide_screen_shows_where_requests_go_and_why() {
    let text = drawn(&mut screen(Sheet::Endpoints), 200, 30);
    for word in ["node-7", "generation 41", "steered by model", "requests/s 100.0", "WHY", "q leave"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    let first = line(&text, "frontend   catalog   10.0.0.1:80");
    for word in ["75.0%", "13.0", "healthy"] {
        assert!(first.contains(word), "{word}: {first}");
    }
    assert!(line(&text, "10.0.0.3:80").contains("ejected: 3 failures in a row"), "{text}");
}

#[test]
fn a_small_screen_keeps_what_matters_and_none_is_too_small() {
    let text = drawn(&mut screen(Sheet::Endpoints), 60, 9);
    let row = line(&text, "10.0.0.1:80");
    assert!(row.contains("75.0%") && row.contains("healthy") && !text.contains("WHY"), "{text}");
    // Where nearly everything fits, the last column is cut and no other.
    let mut long = screen(Sheet::Endpoints);
    let mut seen = snapshot(1, Instant::now());
    seen.routing["tables"][0]["candidates"][0]["reason"] = "because ".repeat(30).into();
    long.take(Ok(seen));
    let text = drawn(&mut long, 140, 20);
    assert!(text.contains("PREDICTED") && line(&text, "because").contains("10.0.0.1:80"), "{text}");
    for (width, height) in [(1, 1), (2, 40), (400, 1), (20, 5), (40, 3)] {
        for sheet in Sheet::ALL {
            drawn(&mut screen(sheet), width, height);
        }
    }
    drawn(&mut Screen::new(Sheet::Links, String::new(), "x".into()), 80, 24);
}

#[test]
fn failures_are_shown_by_reason_with_their_rate_the_most_first() {
    let text = drawn(&mut screen(Sheet::Failures), 100, 20);
    let refused = line(&text, "connect_refused");
    assert!(refused.contains("10.0") && refused.contains("30"), "20 in 2 s, 30 in all: {refused}");
    assert!(line(&text, "no_route").contains("0.0") && !text.contains("loop"), "{text}");
    assert!(text.find("connect_refused") < text.find("no_route"), "{text}");
}

#[test]
fn links_are_those_of_the_graph() {
    let text = drawn(&mut screen(Sheet::Links), 120, 20);
    let used = line(&text, "12.0");
    assert!(used.contains("frontend") && used.contains("10.0.0.1:80") && used.contains("50.0%"), "{text}");
}

#[test]
fn what_each_generation_changed_is_told_the_newest_first() {
    let mut screen = screen(Sheet::Timeline);
    let mut seen = snapshot(1, Instant::now());
    let history = &fixture::state().control.history;
    [40, 41].into_iter().for_each(|generation| history.add(fixture::change(generation)));
    seen.routing["history"] = crate::admin::history::last(history, 10);
    screen.take(Ok(seen));
    let text = drawn(&mut screen, 260, 20);
    let newest = line(&text, " 41  ");
    for word in [
        "latency",
        "model",
        "4.0",
        "took 120.0 ms where 12.0 ms were predicted",
        "10.0.0.3:80: healthy -> ejected",
        "10.0.0.2:80 appeared",
        "90.0% -> 75.0%",
    ] {
        assert!(newest.contains(word), "{word}: {newest}");
    }
    assert!(text.find(" 41  ") < text.find(" 40  "), "{text}");
}

#[test]
fn both_arms_of_a_trial_stand_one_below_the_other() {
    let mut screen = screen(Sheet::Canary);
    let none = drawn(&mut screen, 160, 20);
    assert!(none.contains("on no trial: `model.mode` is `active`, and `canary` begins one"), "{none}");
    let mut seen = snapshot(1, Instant::now());
    seen.routing = routing::routing(&fixture::on_trial(false), routing::Filter::default()).unwrap();
    screen.take(Ok(seen));
    let text = drawn(&mut screen, 160, 20);
    let arms: Vec<&str> = text.lines().filter(|l| l.contains("catalog") && l.contains("frontend")).collect();
    let [model, against] = arms[..] else { panic!("{text}") };
    assert!(model.contains(" model ") && against.contains(" against "), "{text}");
    assert!(model.contains("100") && model.contains("10.0") && model.contains("2.0%"), "{model}");
    assert!(against.contains("300") && against.contains("20.0") && against.contains("75.0%"), "{against}");
}

#[test]
fn the_ladder_shows_its_step_and_the_model_its_engine() {
    let mut screen = screen(Sheet::Model);
    let text = drawn(&mut screen, 160, 30);
    assert!(line(&text, "ladder: model").contains("STEERS: the model's scores are fresh"), "{text}");
    assert!(!line(&text, "ladder: peak_ewma").contains("STEERS"), "{text}");
    assert!(
        line(&text, "engine  ").contains("embedded 0.27 on cpu") && text.contains("no ONNX Runtime was found"),
        "{text}"
    );
    assert!(line(&text, "model digest").contains("abc123"), "{text}");
}

#[test]
fn keys_turn_sort_filter_move_and_leave() {
    let mut screen = screen(Sheet::Endpoints);
    let order = |text: &str| text.find("10.0.0.1:80").unwrap() < text.find("10.0.0.3:80").unwrap();
    assert!(order(&drawn(&mut screen, 200, 30)));
    (0..3).for_each(|_| assert!(press(&mut screen, KeyCode::Right)));
    assert!(press(&mut screen, KeyCode::Char('r')));
    assert!(!order(&drawn(&mut screen, 200, 30)), "by endpoint, downwards");
    for c in "/0.3:80 catalog".chars() {
        assert!(press(&mut screen, KeyCode::Char(c)));
    }
    assert!(press(&mut screen, KeyCode::Enter));
    let text = drawn(&mut screen, 200, 30);
    assert!(!text.contains("10.0.0.1:80") && text.contains("10.0.0.3:80"), "{text}");
    assert!(press(&mut screen, KeyCode::Char('/')) && press(&mut screen, KeyCode::Esc), "esc clears it, and stays");
    assert!(drawn(&mut screen, 200, 30).contains("10.0.0.1:80"));
    for code in [KeyCode::End, KeyCode::Down, KeyCode::Home, KeyCode::Up, KeyCode::PageDown, KeyCode::PageUp] {
        assert!(press(&mut screen, code));
        drawn(&mut screen, 80, 10);
    }
    assert!(press(&mut screen, KeyCode::Tab) && screen.sheet == Sheet::Links);
    assert!(press(&mut screen, KeyCode::Char('3')) && screen.sheet == Sheet::Failures);
    assert!(press(&mut screen, KeyCode::Char('6')) && screen.sheet == Sheet::Model);
    assert!(press(&mut screen, KeyCode::Tab) && screen.sheet == Sheet::Endpoints, "round and round");
    assert!(!press(&mut screen, KeyCode::Char('q')) && !press(&mut screen, KeyCode::Esc));
    assert!(!pressed(&mut screen, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn trouble_is_said_in_words_above_the_last_answer() {
    let mut screen = screen(Sheet::Endpoints);
    let mut seen = snapshot(1, Instant::now());
    seen.routing["generation"]["expired"] = true.into();
    seen.routing["generation"]["rung"] = "peak_ewma".into();
    seen.routing["generation"]["rung_reason"] = "no scores\u{1b}[31m".into();
    seen.routing["tables"][0]["panic"] = true.into();
    seen.routing["reload_refused"] = json!({ "at": "t1", "text": "error: proxy.yaml:14:7: unknown key\nerror: two" });
    seen.routing["canary"] = json!({ "retreat": { "code": "canary_latency", "reason": "its requests took long" } });
    screen.take(Ok(seen));
    screen.take(Err("nobody listens".into()));
    let text = drawn(&mut screen, 160, 40);
    for word in [
        "NO ANSWER: nobody listens",
        "EXPIRED",
        "NOT THE MODEL: peak_ewma, because no scores",
        "PANIC: ",
        "CONFIGURATION REFUSED at t1, the one before it stays: error: proxy.yaml:14:7: unknown key (1 of 2 lines",
        "TRIAL LOST: its requests took long (canary_latency)",
        "DISCOVERY: dns catalog.shop:8080 fails to say where catalog is, for 60 s: timeout: nobody answers",
    ] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}') && text.contains("10.0.0.1:80"), "{text}");
}

#[test]
fn a_printed_frame_has_every_row_and_reason_and_no_keys_and_is_no_wider_than_asked_for() {
    let reason = "predicted 35.1 ms at its fair share; left as it was: the change is within the dead band";
    for sheet in Sheet::ALL {
        for width in [60, 80, 120, 200] {
            let mut screen = screen(sheet);
            let mut seen = snapshot(40, Instant::now());
            seen.routing["tables"][0]["candidates"][0]["reason"] = reason.into();
            screen.take(Ok(seen));
            let text = screen.printed(width);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} of {width}:\n{text}");
            assert!(!text.contains("q leave") && text.ends_with('\n') && !text.contains(" \n"), "{text}");
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(flat.contains("generation 41") && flat.contains("mode active"), "{text}");
            if sheet == Sheet::Endpoints {
                // Beside the row it goes on in the next line, below it all of it stands together.
                let words = if width < 200 { reason } else { "the change is within the dead band" };
                assert!(flat.contains(words) && text.contains("10.0.0.3:80"), "{width}:\n{text}");
                assert!(flat.contains(columns::WEIGHT) && flat.contains(columns::DIFFER), "{text}");
                assert_eq!(flat.contains("Not shown for want of width"), width < 120, "{width}:\n{text}");
            }
        }
    }
}

#[test]
fn on_a_terminal_of_the_usual_sizes_nothing_is_cut_but_columns_that_are_left_out() {
    let reason = "predicted 35.1 ms at its fair share; left as it was: the change is within the dead band";
    for (width, height) in [(80, 24), (100, 30), (140, 40)] {
        for sheet in Sheet::ALL {
            let mut screen = screen(sheet);
            let mut seen = snapshot(40, Instant::now());
            seen.routing["tables"][0]["candidates"][0]["reason"] = reason.into();
            seen.routing["reload_refused"] = json!({ "at": "t1", "text": "error: /etc/pathloom/pathloom.yaml:14:7: unknown key `endpoint`, did you mean `endpoints`?" });
            screen.take(Ok(seen));
            let text = drawn(&mut screen, width, height);
            let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for word in ["mode active", "steered by model", "predictions off by", "q leave", "6 model", sheet.legend()]
            {
                assert!(flat.contains(word), "{width}x{height} {sheet:?}: {word} is not in\n{text}");
            }
            assert!(flat.contains("did you mean `endpoints`?"), "{text}");
            if sheet == Sheet::Endpoints {
                assert!(flat.contains(&format!("▸ 10.0.0.1:80: {reason}")), "{text}");
                for word in ["75.0%", "healthy", "ejected", "WEIGHT", "CALLS"] {
                    assert!(text.contains(word), "{word} is not in\n{text}");
                }
            }
        }
    }
}

#[test]
fn the_chosen_rows_reason_follows_the_choice_and_a_failures_says_what_to_do() {
    let mut endpoints = screen(Sheet::Endpoints);
    assert!(line(&drawn(&mut endpoints, 80, 24), "▸").contains("10.0.0.1:80: softmax of the score"));
    press(&mut endpoints, KeyCode::Down);
    press(&mut endpoints, KeyCode::Down);
    let text = drawn(&mut endpoints, 80, 24);
    assert!(line(&text, "▸").contains("10.0.0.3:80: ejected: 3 failures in a row"), "{text}");
    let text = drawn(&mut screen(Sheet::Failures), 80, 24);
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("▸ connect_refused: The endpoint"), "{text}");
    assert!(flat.contains("proxy-config/TROUBLESHOOTING.md#connect_refused"), "{text}");
}

#[test]
fn a_question_mark_says_all_of_what_the_columns_mean_and_an_empty_sheet_why_it_is() {
    let mut endpoints = screen(Sheet::Endpoints);
    assert!(press(&mut endpoints, KeyCode::Char('?')));
    let flat = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = flat(drawn(&mut endpoints, 80, 30));
    for meaning in [columns::WEIGHT, columns::CALLS, columns::DIFFER, columns::PREDICTED, columns::INTRINSIC] {
        assert!(text.contains(meaning), "{meaning} is not in {text}");
    }
    assert!(press(&mut endpoints, KeyCode::Char('?')));
    assert!(!flat(drawn(&mut endpoints, 80, 30)).contains(columns::DIFFER));
    let mut failures = Screen::new(Sheet::Failures, String::new(), "x".into());
    failures.take(Ok(Snapshot::new(json!({ "mode": "active" }), &json!({}), "", Instant::now())));
    assert!(drawn(&mut failures, 80, 24).contains("nothing has failed since the process began"));
    failures.filter = "nobody".into();
    assert!(drawn(&mut failures, 80, 24).contains("no row holds `nobody`"));
}
