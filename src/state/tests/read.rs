//! Lists, counts, and reading what is cold.

use super::super::Filter;
use super::*;

fn ids(desk: &Desk, filter: &Filter) -> Vec<String> {
    let page = desk.state.list(filter, None, 1_000).unwrap();
    page.tasks.iter().map(|t| t.key.id.to_string()).collect()
}

#[test]
fn pages_follow_the_order_of_ids_across_applications() {
    let mut desk = Desk::new();
    for (app, id) in [("shop", "b"), ("bank", "z"), ("shop", "a"), ("shop-2", "a")] {
        let mut event = submit("x", When::At(Time(9_000)), &spec());
        event.key = Key::new(app, id).unwrap();
        desk.fold(event);
    }
    desk.state.cool(|task| &*task.key.id == "a");
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = desk
            .state
            .list(&Filter::default(), after.as_ref(), 1)
            .unwrap();
        seen.extend(page.tasks.iter().map(|t| t.key.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["bank/z", "shop/a", "shop/b", "shop-2/a"]);
    let shop = Filter {
        app: Some("shop".into()),
        ..Filter::default()
    };
    assert_eq!(ids(&desk, &shop), ["a", "b"]);
    let nobody = Filter {
        app: Some("nobody".into()),
        ..Filter::default()
    };
    assert_eq!(ids(&desk, &nobody), [""; 0]);
}

#[test]
fn filters_narrow_by_stage_instant_and_labels() {
    let mut desk = Desk::new();
    for (id, due, label) in [("a", 3_000, "x"), ("b", 4_000, "y"), ("c", 5_000, "x")] {
        let labels = [("order".to_string(), label.to_string())].into();
        let spec = Spec { labels, ..spec() };
        desk.fold(submit(id, When::At(Time(due)), &spec));
    }
    desk.fold(cancel("b"));
    let all = Filter::default;
    let stage = Some(Stage::Scheduled);
    assert_eq!(ids(&desk, &Filter { stage, ..all() }), ["a", "c"]);
    let labels = vec![("order".into(), "x".into())];
    assert_eq!(ids(&desk, &Filter { labels, ..all() }), ["a", "c"]);
    let labels = vec![("order".into(), "z".into())];
    assert_eq!(ids(&desk, &Filter { labels, ..all() }), [""; 0]);
    let between = Filter {
        due_from: Some(Time(3_000)),
        due_to: Some(Time(5_000)),
        ..all()
    };
    assert_eq!(
        ids(&desk, &between),
        ["a", "b"],
        "from is inclusive, to is exclusive"
    );
}

#[test]
fn a_page_is_bounded_by_what_it_examines() {
    let mut desk = Desk::new();
    let count = limits::PAGE_EXAMINED_MAX + 1;
    let events = (0..count).map(|n| submit(&format!("t{n:06}"), When::At(Time(9_000)), &spec()));
    desk.fold_all(events.map(Event::from).collect());
    let none = Filter {
        stage: Some(Stage::Dead),
        ..Filter::default()
    };
    let page = desk.state.list(&none, None, 10).unwrap();
    assert!(page.tasks.is_empty());
    assert_eq!(page.next, Some(key(&format!("t{:06}", count - 2))));
    let page = desk.state.list(&none, page.next.as_ref(), 10).unwrap();
    assert_eq!((page.tasks.len(), page.next), (0, None));
}

#[test]
fn stats_count_by_stage_and_application() {
    let mut desk = Desk::new();
    for stage in Stage::ALL.into_iter().rev() {
        desk.bring(stage.name(), stage);
    }
    desk.bring("one-more", Stage::Dead);
    assert_eq!(desk.state.stats(None), [1, 1, 1, 1, 1, 1, 2, 1]);
    desk.state.cool(|_| true);
    assert_eq!(desk.state.stats(Some("shop")), [1, 1, 1, 1, 1, 1, 2, 1]);
    assert_eq!(desk.state.stats(Some("bank")), [0; 8]);
}

#[test]
fn what_is_cold_is_read_like_what_is_hot() {
    let mut desk = Desk::new();
    let task = desk.bring("a", Stage::Retrying);
    let rows = desk.rows("a");
    assert_eq!(desk.state.cool(|_| true), 1);
    assert_eq!(desk.task("a"), task);
    assert_eq!(desk.rows("a"), rows);
    assert_eq!(desk.state.task_by_seq(task.seq).unwrap(), Some(task));
    desk.state.audit();
}
