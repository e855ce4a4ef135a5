//! What waits for an entry: by class, bounded by count and by bytes.
//!
//! The most urgent class goes first, always; that starves nobody for long, because what is urgent
//! follows from what was submitted. Submits come last, and share their room by application
//! (`turns.rs`). They alone are refused while there is no room on disk: everything else ends what is
//! there, or makes room.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

use super::turns::{Full, Size, Turns};
use super::wire::Verdict;
use crate::model::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};
use crate::model::{Event, Span};

/// Order of work under load, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Trigger = 0,
    Outcome = 1,
    /// And whatever else somebody decides about tasks that are there.
    Cancel = 2,
    /// What is over leaves.
    Retire = 3,
    Submit = 4,
}

impl Class {
    pub(crate) const ALL: [Class; 5] = [
        Class::Trigger,
        Class::Outcome,
        Class::Cancel,
        Class::Retire,
        Class::Submit,
    ];

    pub(crate) fn from_number(number: u8) -> Option<Class> {
        Class::ALL.get(usize::from(number)).copied()
    }
}

/// Events that may wait in one class.
const WAITING_EVENTS_MAX: usize = 65_536;
/// Bytes that may wait in one class.
const WAITING_BYTES_MAX: usize = 128 << 20;
/// What a client is asked to wait when there is no room for its request…
const RETRY_AFTER: Span = Span::seconds(1);
/// …and while a disk is nearly full: room does not come by itself.
const RETRY_AFTER_FULL: Span = Span::seconds(30);

/// Events that share an entry, and who waits for what becomes of them.
pub(super) struct Request {
    pub events: Vec<Event>,
    pub reply: oneshot::Sender<Vec<Verdict>>,
    /// As it was before the events moved into the entry.
    size: Size,
}

impl Request {
    pub fn new(events: Vec<Event>) -> (Request, oneshot::Receiver<Vec<Verdict>>) {
        let (reply, answer) = oneshot::channel();
        let size = Size {
            events: events.len(),
            bytes: events.iter().map(bytes).sum(),
        };
        let request = Request {
            events,
            reply,
            size,
        };
        (request, answer)
    }

    /// How many events it has, or had.
    pub fn count(&self) -> usize {
        self.size.events
    }
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    size: Size,
}

/// One entry's worth, as it is filled.
#[derive(Default)]
struct Filled {
    taken: Vec<Request>,
    size: Size,
}

impl Filled {
    /// Whole requests: the first goes in whatever its size.
    fn fits(&self, size: Size) -> bool {
        let fits = self.size.events + size.events <= BATCH_EVENTS_MAX
            && self.size.bytes + size.bytes <= BATCH_BYTES_MAX;
        fits || self.taken.is_empty()
    }

    fn take(&mut self, request: Request) {
        self.size.add(request.size);
        self.taken.push(request);
    }
}

/// See the module.
pub(super) struct Waiting {
    /// The classes before the submits.
    urgent: [Queue; Class::Submit as usize],
    submits: Turns<Request>,
    /// No submits are taken: there is no room on disk.
    pub shut: bool,
}

impl Waiting {
    const MAX: Size = Size {
        events: WAITING_EVENTS_MAX,
        bytes: WAITING_BYTES_MAX,
    };

    /// `rate`: submits a second that each application may make; 0 for no such bound.
    pub fn new(rate: u32) -> Waiting {
        Waiting {
            urgent: Default::default(),
            submits: Turns::new(Waiting::MAX, rate),
            shut: false,
        }
    }

    /// Lets a request wait for an entry, or says why not; surely nothing has happened then.
    pub fn push(
        &mut self,
        class: Class,
        app: &Arc<str>,
        request: Request,
        now: Duration,
    ) -> Result<(), Verdict> {
        let size = request.size;
        let Some(queue) = self.urgent.get_mut(class as usize) else {
            if self.shut {
                return Err(Verdict::NoRoom {
                    retry_after_ms: RETRY_AFTER_FULL.0,
                });
            }
            let pushed = self.submits.push(app, size, request, now);
            return pushed.map_err(|full| match full {
                Full::Room => overloaded(),
                Full::Rate { retry_after } => Verdict::TooFast {
                    retry_after_ms: retry_after.0,
                },
            });
        };
        let full = queue.size.events + size.events > Waiting::MAX.events
            || queue.size.bytes + size.bytes > Waiting::MAX.bytes;
        if full && !queue.requests.is_empty() {
            return Err(overloaded());
        }
        queue.size.add(size);
        queue.requests.push_back(request);
        Ok(())
    }

    /// The next entry's requests: whole ones, by class. While the state has more of them than its
    /// checkpoints can follow, submits stay, and so does what retires; what is due must not wait
    /// for these.
    pub fn take(&mut self, held_back: bool) -> Vec<Request> {
        let classes = match held_back {
            true => Class::Retire as usize,
            false => self.urgent.len(),
        };
        let mut filled = Filled::default();
        for queue in &mut self.urgent[..classes] {
            while let Some(next) = queue.requests.front() {
                if !filled.fits(next.size) {
                    return filled.taken;
                }
                let Some(request) = queue.requests.pop_front() else {
                    break;
                };
                queue.size.sub(request.size);
                filled.take(request);
            }
        }
        while !held_back && let Some(request) = self.submits.next(|size| filled.fits(size)) {
            filled.take(request);
        }
        filled.taken
    }
}

fn overloaded() -> Verdict {
    Verdict::Overloaded {
        retry_after_ms: RETRY_AFTER.0,
    }
}

/// Events of one class by whose they are, with their places. Only submits are told apart.
pub(super) fn by_app(class: Class, events: Vec<Event>) -> BTreeMap<Arc<str>, Vec<(usize, Event)>> {
    let mut parts: BTreeMap<Arc<str>, Vec<(usize, Event)>> = BTreeMap::new();
    for (place, event) in events.into_iter().enumerate() {
        let app = match (&event, class) {
            (Event::Submit(submit), Class::Submit) => submit.key.app.clone(),
            (Event::Run(run), Class::Submit) => run.key.app.clone(),
            _ => Arc::default(),
        };
        parts.entry(app).or_default().push((place, event));
    }
    parts
}

/// About how many bytes an event takes in the log.
fn bytes(event: &Event) -> usize {
    const SMALL: usize = 200;
    match event {
        Event::Submit(e) => e.spec.len() + SMALL,
        Event::Change(e) => e.spec.as_ref().map_or(0, |spec| spec.len()) + SMALL,
        Event::Done(e) => e.end.answer.as_ref().map_or(0, |text| text.len()) + SMALL,
        Event::Failed(e) => e.end.answer.as_ref().map_or(0, |text| text.len()) + SMALL,
        Event::Started(e) => e.attempts.len() * 40 + SMALL,
        _ => SMALL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cancel, Digest, Key, Retire, Submit, Time, Trigger, When};

    const NOW: Duration = Duration::from_secs(10);

    fn submit(app: &str, id: usize) -> Event {
        Submit {
            key: Key::new(app, &id.to_string()).unwrap(),
            when: When::At(Time(5)),
            spec: Arc::from(&[0u8; 100][..]),
            digest: Digest::default(),
            by: "test".into(),
        }
        .into()
    }

    fn cancel() -> Event {
        Cancel {
            key: Key::new("shop", "a").unwrap(),
            if_match: None,
            withdrawn: None,
            by: "test".into(),
        }
        .into()
    }

    fn trigger() -> Event {
        let (until, max) = (Time(5), 1);
        Trigger { until, max }.into()
    }

    fn retire() -> Event {
        let zero = Time(0);
        Retire {
            finished_up_to: zero,
            dead_up_to: zero,
            marks_up_to: zero,
            history_up_to: zero,
            max: 1,
        }
        .into()
    }

    fn push(waiting: &mut Waiting, class: Class, event: Event) -> Result<(), Verdict> {
        let app = by_app(class, vec![event.clone()]).into_keys().next();
        let (request, _) = Request::new(vec![event]);
        waiting.push(class, &app.unwrap(), request, NOW)
    }

    fn kinds(taken: &[Request]) -> Vec<&'static str> {
        let events = taken.iter().flat_map(|request| &request.events);
        events.map(Event::name).collect()
    }

    fn one_of_each(waiting: &mut Waiting) {
        push(waiting, Class::Submit, submit("a", 1)).unwrap();
        push(waiting, Class::Retire, retire()).unwrap();
        push(waiting, Class::Cancel, cancel()).unwrap();
        push(waiting, Class::Trigger, trigger()).unwrap();
    }

    #[test]
    fn the_most_urgent_goes_first_and_what_fills_the_state_waits_for_its_checkpoint() {
        let mut waiting = Waiting::new(0);
        one_of_each(&mut waiting);
        assert_eq!(kinds(&waiting.take(true)), ["Trigger", "Cancel"]);
        assert_eq!(kinds(&waiting.take(true)), [""; 0]);
        assert_eq!(kinds(&waiting.take(false)), ["Retire", "Submit"]);
    }

    #[test]
    fn without_room_on_disk_only_submits_are_refused() {
        let mut waiting = Waiting::new(0);
        waiting.shut = true;
        let refused = push(&mut waiting, Class::Submit, submit("a", 1));
        assert!(matches!(refused, Err(Verdict::NoRoom { retry_after_ms }) if retry_after_ms > 0));
        for (class, event) in [
            (Class::Trigger, trigger()),
            (Class::Cancel, cancel()),
            (Class::Retire, retire()),
        ] {
            push(&mut waiting, class, event).unwrap();
        }
        assert_eq!(waiting.take(false).len(), 3);
        waiting.shut = false;
        push(&mut waiting, Class::Submit, submit("a", 1)).unwrap();
    }

    #[test]
    fn an_application_that_hides_behind_another_in_a_batch_is_found() {
        let events = vec![submit("calm", 0), submit("hot", 1), submit("hot", 2)];
        let parts = by_app(Class::Submit, events);
        let places: Vec<(&str, Vec<usize>)> = parts
            .iter()
            .map(|(app, part)| (&**app, part.iter().map(|(place, _)| *place).collect()))
            .collect();
        assert_eq!(places, [("calm", vec![0]), ("hot", vec![1, 2])]);
        let together = by_app(Class::Cancel, vec![cancel(), cancel()]);
        assert_eq!(together.len(), 1, "order within a class is kept");
    }

    #[test]
    fn a_flood_of_one_class_is_refused_and_the_others_are_taken() {
        let mut waiting = Waiting::new(0);
        let taken = |waiting: &mut Waiting, class: Class, event: fn(usize) -> Event| {
            let taken = (0..80_000).filter(|n| push(waiting, class, event(*n)).is_ok());
            taken.count()
        };
        assert_eq!(
            taken(&mut waiting, Class::Cancel, |_| cancel()),
            WAITING_EVENTS_MAX
        );
        let hot = taken(&mut waiting, Class::Submit, |n| submit("hot", n));
        assert_eq!(hot, WAITING_EVENTS_MAX / 2, "its part of the room");
        push(&mut waiting, Class::Trigger, trigger()).unwrap();
        push(&mut waiting, Class::Submit, submit("calm", 1)).unwrap();
        let first = waiting.take(false);
        assert_eq!(kinds(&first)[0], "Trigger");
        assert!(first.len() <= BATCH_EVENTS_MAX, "an entry is bounded, too");
    }
}
