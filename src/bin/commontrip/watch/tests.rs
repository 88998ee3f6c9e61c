//! The board and its drawing, on a terminal in memory.

use std::{sync::Arc, time::Duration};

use commontrip::{
    Commontrip, Name, Policy, Reason, State,
    operator::{Ask, News, Operator, Survey, View},
};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{
    Terminal,
    backend::TestBackend,
    style::{Color, Modifier},
};
use tokio::time::Instant;

use super::{
    board::{Board, Wish},
    draw::draw,
};
use crate::zone::Zone;

/// Closed circuits with these names, one successful call each.
async fn survey(names: &[&str]) -> Survey {
    let circuits = Commontrip::embedded().unwrap();
    for name in names {
        let circuit = circuits.circuit(name, Policy::default()).unwrap();
        circuit.call(|| async { Ok::<_, ()>(()) }).await.unwrap();
    }
    circuits.flush().await;
    let operator = Operator::of(&circuits);
    let mut survey = operator.survey(&Ask::all(60)).await.unwrap();
    survey.circuits.sort_by(|a, b| a.name.cmp(&b.name));
    survey
}

fn open(mut view: View) -> View {
    let seen = &mut view.snapshot;
    (seen.state, seen.reason) = (State::Open, Reason::FailureRate);
    (seen.calls, seen.failures, seen.generation) = (40, 25, 9);
    seen.until_ms = seen.now_ms + 20_000;
    view.failure_rate = Some(62.5);
    view
}

/// Advances the board by one slice, so that the counts so far become a complete bar.
fn a_slice_later(board: &mut Board) {
    let later = board.now_ms() + 10_000;
    board.take(News::Tick(later), board.now.unwrap());
}

async fn board(names: &[&str]) -> (Board, Instant) {
    let now = Instant::now();
    let mut board = Board::new(None, true, Zone::utc());
    board.take(News::Circuits(survey(names).await), now);
    board.now = Some(now);
    (board, now)
}

fn drawn(board: &Board, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, board)).unwrap();
    terminal
}

fn lines(board: &Board, width: u16, height: u16) -> Vec<String> {
    let terminal = drawn(board, width, height);
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width));
    rows.map(|row| {
        row.iter()
            .map(|cell| cell.symbol())
            .collect::<String>()
            .trim_end()
            .to_owned()
    })
    .collect()
}

fn press(board: &mut Board, code: KeyCode) -> Wish {
    board.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[tokio::test]
async fn the_list_has_the_worst_first_with_its_graph() {
    let (mut board, now) = board(&["apples", "payments"]).await;
    let view = board.rows[&Name::new("payments").unwrap()].view.clone();
    board.take(News::Circuit(Arc::new(open(view))), now);
    a_slice_later(&mut board);
    let shown = lines(&board, 100, 10);
    assert!(
        shown[0].starts_with("commontrip  1 closed  1 open  "),
        "{shown:#?}"
    );
    assert!(
        shown[1].starts_with("NAME") && shown[1].contains("FAILING   CALLS"),
        "{shown:#?}"
    );
    assert!(shown[2].starts_with("payments open"), "{shown:#?}");
    assert!(
        shown[2].contains("10s") && shown[2].contains("62.5%") && shown[2].contains('█'),
        "{shown:#?}"
    );
    assert!(shown[3].starts_with("apples   closed"), "{shown:#?}");
    assert!(
        shown[1].contains("CALLS/10 s") && shown[1].contains("WHY"),
        "{shown:#?}"
    );
    assert!(shown[2].contains("25 of 40 calls failed"), "{shown:#?}");
    assert!(shown[9].contains("q quit"), "{shown:#?}");
    let terminal = drawn(&board, 100, 10);
    let buffer = terminal.backend().buffer();
    assert_eq!(buffer[(10, 2)].fg, Color::Red);
    // The selection follows its circuit.
    assert!(buffer[(0, 3)].modifier.contains(Modifier::REVERSED));
}

#[tokio::test]
async fn keys_select_open_and_leave() {
    let (mut board, _) = board(&["a", "b", "c"]).await;
    let selected = |board: &Board| board.selected.as_ref().map(ToString::to_string).unwrap();
    assert_eq!(selected(&board), "a");
    for (code, is) in [
        (KeyCode::Down, "b"),
        (KeyCode::End, "c"),
        (KeyCode::Down, "c"),
        (KeyCode::PageUp, "a"),
        (KeyCode::Up, "a"),
        (KeyCode::Char('j'), "b"),
    ] {
        assert_eq!(press(&mut board, code), Wish::None);
        assert_eq!(selected(&board), is, "{code:?}");
    }
    assert_eq!(board.shown(), None);
    assert_eq!(press(&mut board, KeyCode::Enter), Wish::Past);
    assert_eq!(board.shown(), Some(&Name::new("b").unwrap()));
    // Another circuit, whose events have not arrived yet.
    assert_eq!(press(&mut board, KeyCode::Down), Wish::Past);
    assert_eq!(press(&mut board, KeyCode::Down), Wish::None);
    assert_eq!(press(&mut board, KeyCode::Esc), Wish::None);
    assert_eq!(board.shown(), None);
    assert_eq!(press(&mut board, KeyCode::Esc), Wish::Leave);
    assert_eq!(press(&mut board, KeyCode::Char('q')), Wish::Leave);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(board.key(interrupt), Wish::Leave);
}

#[tokio::test]
async fn one_circuit_is_shown_with_graphs_and_events() {
    let (mut board, now) = board(&["payments"]).await;
    let name = Name::new("payments").unwrap();
    let view = open(board.rows[&name].view.clone());
    let circuits = Commontrip::embedded().unwrap();
    let circuit = circuits.circuit("payments", Policy::default()).unwrap();
    let drill = commontrip::Override::because("dr\u{1b}ill").by("ana");
    circuit.force_open(drill).await.unwrap();
    let events = Operator::of(&circuits).events("payments").await.unwrap();

    board.take(News::Circuit(Arc::new(view)), now);
    press(&mut board, KeyCode::Enter);
    assert!(lines(&board, 80, 24).join("\n").contains("events: looking"));
    board.past(Name::new("other").unwrap(), events.clone());
    assert!(!board.has_past(), "another circuit's are not taken");
    board.past(name.clone(), Vec::new());
    for _ in 0..2 {
        board.take(News::Entry(name.clone(), Arc::new(events[0].clone())), now);
    }
    a_slice_later(&mut board);
    let shown = lines(&board, 120, 40);
    let text = shown.join("\n");
    assert!(shown[1].starts_with("payments  open for "), "{text}");
    assert!(
        shown[2].starts_with("25 of 40 calls failed (62.5%)"),
        "{text}"
    );
    for words in [
        "\nok ",
        "\nfailed",
        "\nrejected",
        "█",
        "probes: 0 out",
        "events, newest first, UTC",
        "a bar for each 10 s that are over",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let told = text.matches("closed -> forced_open").count();
    assert_eq!(told, 1, "an entry that comes twice is told once: {text}");
    assert!(
        text.contains("by ana") && text.contains("dr\\u{1b}ill"),
        "{text}"
    );
    board.take(News::Gone(name), now);
    assert!(
        lines(&board, 80, 24)
            .join("\n")
            .contains("not listed any more")
    );
}

#[tokio::test]
async fn what_was_counted_since_goes_into_the_graph() {
    let (mut board, now) = board(&["payments"]).await;
    let name = Name::new("payments").unwrap();
    assert_eq!(
        board.rows[&name].columns.len(),
        1,
        "the past that was there"
    );
    let mut view = board.rows[&name].view.clone();
    view.snapshot.now_ms += 20_000;
    view.snapshot.failures_total += 7;
    view.snapshot.rejected_total += 3;
    board.take(News::Circuit(Arc::new(view.clone())), now);
    view.snapshot.successes_total += 2;
    board.take(News::Circuit(Arc::new(view.clone())), now);
    let columns = &board.rows[&name].columns;
    let newest = columns.back().unwrap();
    assert_eq!((columns.len(), newest.at_ms % 10_000), (2, 0));
    assert_eq!(
        (newest.successes, newest.failures, newest.rejected),
        (2, 7, 3)
    );
    for _ in 0..1000 {
        view.snapshot.now_ms += 10_000;
        view.snapshot.successes_total += 1;
        board.take(News::Circuit(Arc::new(view.clone())), now);
    }
    assert_eq!(board.rows[&name].columns.len(), 360);
}

#[tokio::test]
async fn the_last_bar_is_of_a_whole_slice() {
    let (mut board, now) = board(&["payments"]).await;
    let name = Name::new("payments").unwrap();
    let mut view = board.rows[&name].view.clone();
    view.snapshot.now_ms = (view.snapshot.now_ms / 10_000 + 2) * 10_000;
    for calls in [1000, 1000, 40] {
        view.snapshot.successes_total += calls;
        view.snapshot.now_ms += 1;
        board.take(News::Circuit(Arc::new(view.clone())), now);
        view.snapshot.now_ms += 9_999;
    }
    for (width, height) in [(100, 10), (60, 10)] {
        let shown = lines(&board, width, height);
        assert!(shown[2].ends_with("██"), "{shown:#?}");
    }
    press(&mut board, KeyCode::Enter);
    let text = lines(&board, 100, 30).join("\n");
    let ok = text.lines().find(|line| line.starts_with("ok"));
    assert!(ok.unwrap().ends_with("██"), "{text}");
    // A complete column counts as well.
    a_slice_later(&mut board);
    let text = lines(&board, 100, 30).join("\n");
    assert!(text.contains("██▁"), "{text}");
}

#[tokio::test]
async fn a_store_that_is_away_and_old_numbers_are_said() {
    let (mut board, now) = board(&["payments"]).await;
    board.take(News::Tick(1_795_279_203_000), now);
    assert!(lines(&board, 80, 24)[0].ends_with("16:40:03 UTC"));
    board.take(News::Store(Err("connection refused".to_owned())), now);
    board.now = Some(now + Duration::from_secs(1));
    let head = &lines(&board, 120, 24)[0];
    assert!(
        head.contains("does not answer") && head.contains("refused"),
        "{head}"
    );
    board.take(News::Store(Ok(Duration::ZERO)), now);
    assert!(!lines(&board, 80, 24)[0].contains("does not answer"));
    // Without any update.
    board.now = Some(now + Duration::from_secs(75));
    let terminal = drawn(&board, 80, 24);
    assert!(lines(&board, 80, 24)[0].contains("these numbers are 1m 15s old"));
    assert!(
        terminal.backend().buffer()[(10, 2)]
            .modifier
            .contains(Modifier::DIM)
    );
}

#[tokio::test]
async fn any_size_and_no_colours_will_do() {
    let (mut full, now) = board(&["支付-a-long-name-of-a-circuit", "b"]).await;
    let view = full.listed()[0].view.clone();
    full.take(News::Circuit(Arc::new(open(view))), now);
    for width in [0, 1, 2, 7, 20, 39, 80, 200] {
        for height in [0, 1, 2, 3, 5, 17, 24, 60] {
            for one in [false, true] {
                full.one = one;
                drawn(&full, width, height);
            }
        }
    }
    (full.colour, full.one) = (false, false);
    let terminal = drawn(&full, 80, 24);
    let cells = terminal.backend().buffer().content();
    assert!(cells.iter().all(|cell| cell.fg == Color::Reset));
    let mut empty = Board::new(None, true, Zone::utc());
    assert!(lines(&empty, 80, 24)[1].contains("looking"));
    empty.take(News::Circuits(Survey::default()), now);
    assert!(lines(&empty, 80, 24)[1].contains("no circuits here"));
    let mut unread = Survey::default();
    unread.incomplete = Some("3 of 3 circuits were not read: timeout".to_owned());
    empty.take(News::Circuits(unread), now);
    assert!(lines(&empty, 80, 24)[1].contains("no circuit can be read: 3 of 3"));
    assert_eq!(press(&mut empty, KeyCode::Down), Wish::None);
    assert_eq!(press(&mut empty, KeyCode::Enter), Wish::None);
}
