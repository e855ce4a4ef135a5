//! Lists, counts, and reading what is cold.

use super::super::{Filter, Listing};
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

/// How many records a list looked at, and which it showed.
fn looked(desk: &Desk, labels: &[(&str, &str)]) -> (usize, Vec<String>) {
    let filter = Filter {
        labels: labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        ..Filter::default()
    };
    let page = desk.state.list(&filter, None, 1_000).unwrap();
    assert_eq!(page.next, None);
    let ids = page.tasks.iter().map(|task| task.key.id.to_string());
    (page.examined, ids.collect())
}

#[test]
fn a_label_leads_to_its_tasks_and_to_no_others() {
    let mut desk = Desk::new();
    let month = 30 * 24 * 3_600_000;
    let labelled = |id: &str, due: u64, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        let labels = labels.collect();
        Event::from(submit(id, When::At(Time(due)), &Spec { labels, ..spec() }))
    };
    let all = ("all", "yes");
    let mut events: Vec<Event> = (0..600)
        .map(|n| labelled(&format!("t{n:03}"), month, &[all]))
        .collect();
    events.extend((0..600).map(|n| labelled(&format!("u{n:03}"), 9_000, &[])));
    // One far, one near; in the middle of the others, and behind them.
    events.push(labelled("t300x", month, &[all, ("order", "17")]));
    events.push(labelled("z", 9_000, &[all, ("order", "17"), ("size", "l")]));
    desk.fold_all(events);
    for _ in 0..2 {
        let order = ("order", "17");
        let both = vec!["t300x".to_string(), "z".to_string()];
        assert_eq!(looked(&desk, &[order]), (2, both.clone()));
        // Of several labels the rarest is followed, whichever is named first.
        assert_eq!(looked(&desk, &[all, order]), (2, both.clone()));
        assert_eq!(looked(&desk, &[order, all]), (2, both));
        assert_eq!(looked(&desk, &[order, ("size", "l"), all]).0, 1);
        assert_eq!(looked(&desk, &[all]).0, 602);
        // Neither another value nor name and value with another border between them.
        for no in [("order", "1"), ("order", "170"), ("order1", "7"), ("", "")] {
            assert_eq!(looked(&desk, &[no]), (0, Vec::new()), "{no:?}");
        }
        desk.state.cool(|_| true);
    }
}

#[test]
fn labels_follow_a_change_and_leave_with_the_task() {
    for cooled in [false, true] {
        let mut desk = Desk::new();
        let with = |value: &str| Spec {
            labels: [("order".to_string(), value.to_string())].into(),
            ..spec()
        };
        for id in ["a", "b"] {
            desk.fold(submit(id, When::At(Time(9_000)), &with("17")));
        }
        let between = |desk: &mut Desk| {
            if cooled {
                desk.state.cool(|_| true);
            }
        };
        between(&mut desk);
        desk.fold(ChangeTask {
            spec: Some(with("18").encode()),
            ..change("a")
        });
        between(&mut desk);
        assert_eq!(looked(&desk, &[("order", "17")]), (1, vec!["b".into()]));
        assert_eq!(looked(&desk, &[("order", "18")]), (1, vec!["a".into()]));
        desk.fold(cancel("b"));
        between(&mut desk);
        assert_eq!(looked(&desk, &[("order", "17")]).0, 1, "it is still kept");
        desk.at(50_000).fold(retire(40_000, 0, 10));
        between(&mut desk);
        assert_eq!(looked(&desk, &[("order", "17")]).0, 0);
        // The id is free again, and takes other labels.
        desk.fold(submit("b", When::At(Time(90_000)), &with("18")));
        between(&mut desk);
        assert_eq!(looked(&desk, &[("order", "18")]).0, 2);
        desk.fold(ChangeTask {
            spec: Some(spec().encode()),
            ..change("a")
        });
        between(&mut desk);
        assert_eq!(looked(&desk, &[("order", "18")]), (1, vec!["b".into()]));
    }
}

/// Between two slices of a page the fold goes on, and the rest of the page shows it.
#[test]
fn a_page_is_made_in_slices_and_what_changes_between_them_shows() {
    let mut desk = Desk::new();
    for n in 0..9 {
        desk.submit_at(&format!("t{n}"), 9_000);
    }
    desk.state.cool(|task| task.seq.0.is_multiple_of(2));
    let all = Filter::default();
    let mut listing = Listing::new(&all, None, 100);
    let mut slices = 1;
    assert!(!desk.state.list_slice(&mut listing).unwrap());
    // One that was looked at already, one that was not, and one that is new.
    desk.fold(cancel("t0"));
    desk.fold(cancel("t8"));
    desk.submit_at("t81", 9_000);
    while !desk.state.list_slice(&mut listing).unwrap() {
        slices += 1;
    }
    assert!(slices >= 3, "{slices} slices");
    let page = listing.into_page();
    let shown = page.tasks.iter().map(|task| (&*task.key.id, task.stage));
    let expected = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t81"];
    let expected = expected.map(|id| match id {
        "t8" => (id, Stage::Cancelled),
        _ => (id, Stage::Scheduled),
    });
    assert!(shown.eq(expected), "{:?}", page.tasks);
    assert_eq!((page.examined, page.next), (10, None));
}

/// Tasks that have gone are not looked at as records, but a slice ends at them too.
#[test]
fn a_slice_ends_among_tasks_that_have_gone() {
    let mut desk = Desk::new();
    for n in 0..30 {
        desk.submit_at(&format!("t{n:02}"), 9_000);
        if n < 29 {
            desk.fold(cancel(&format!("t{n:02}")));
        }
    }
    desk.fold(retire(9_000, 0, 100));
    let all = Filter::default();
    let mut listing = Listing::new(&all, None, 100);
    let mut slices = 1;
    while !desk.state.list_slice(&mut listing).unwrap() {
        slices += 1;
    }
    assert!(slices > 5, "{slices} slices");
    assert_eq!(listing.into_page().tasks.len(), 1);
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
