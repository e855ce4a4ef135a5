//! Panics of redb over damaged pages: caught, told as damage, and kept from ending the process
//! without a word.
//!
//! A bent page may make redb panic where it should return an error, and the database that is
//! dropped by the unwinding may panic over the same page, which aborts. So work on redb runs in
//! [`caught`], and a process that installed [`quiet_hook`] ends in the second case with a
//! message and status 1.

use std::any::Any;
use std::cell::RefCell;
use std::io::Write;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::Database;

/// Where this thread is.
enum Scope {
    Outside,
    Inside,
    /// Unwinding from the panic with this text.
    Unwinding(String),
}

thread_local! {
    static SCOPE: RefCell<Scope> = const { RefCell::new(Scope::Outside) };
}

/// Runs work on redb.
///
/// # Errors
/// What the panic said, if there was one.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = SCOPE.replace(Scope::Inside);
    let result = catch_unwind(AssertUnwindSafe(work));
    SCOPE.set(before);
    result.map_err(|panic| text(&*panic))
}

/// The message of a caught panic.
fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the engine gave up: {}", text.unwrap_or("no reason given"))
}

/// Keeps quiet about panics that are caught, because whoever catches them reports; ends the process
/// when one cannot be unwound. For the whole process, once, at its start.
pub fn quiet_hook() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let second = SCOPE.with_borrow_mut(|scope| match scope {
            Scope::Outside => None,
            Scope::Inside => {
                *scope = Scope::Unwinding(text(info.payload()));
                Some(None)
            }
            Scope::Unwinding(first) => Some(Some(first.clone())),
        });
        match second {
            None => others(info),
            Some(None) => {}
            Some(Some(first)) => {
                // Nobody may be left to hear it.
                let _ = writeln!(
                    std::io::stderr(),
                    "error: a file of this node is damaged ({first}); replace this node: \
                     `horolog log verify` on its directory says which file"
                );
                std::process::exit(1);
            }
        }
    }));
}

/// A database whose closing may find damage as well.
pub struct Held(Option<Database>);

impl Held {
    pub fn new(db: Database) -> Held {
        Held(Some(db))
    }

    /// Leaves the file as it is: closing writes to it, and what is damaged must not be written
    /// on. The file stays open until the process ends.
    pub fn leave(mut self) {
        std::mem::forget(self.0.take());
    }

    pub fn get_mut(&mut self) -> &mut Database {
        self.0.as_mut().expect(HELD)
    }
}

/// Only dropping takes it out.
const HELD: &str = "held until it is dropped";

impl Deref for Held {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect(HELD)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let db = self.0.take();
        if let Err(why) = caught(move || drop(db)) {
            tracing::error!("a file could not be closed, it is damaged: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_text() {
        assert_eq!(caught(|| 5), Ok(5));
        let said = caught(|| caught(|| panic!("page {}", 7)).unwrap_err());
        assert_eq!(said.unwrap(), "the engine gave up: page 7");
        assert!(SCOPE.with_borrow(|scope| matches!(scope, Scope::Outside)));
    }
}
