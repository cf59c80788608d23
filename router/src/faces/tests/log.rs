use std::{cell::RefCell, fmt, sync::Once};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

thread_local! {
    static LOGGED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Everything that is logged on this thread, which a test has for itself.
pub(super) struct Log;

impl Log {
    /// One subscriber for all threads: those of single threads race for the callsites that they share.
    pub(super) fn start() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| tracing::subscriber::set_global_default(Self).unwrap());
        Self
    }

    pub(super) fn text(&self) -> String {
        LOGGED.with_borrow(Clone::clone)
    }
}

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What the libraries say of bytes they send is theirs.
        metadata.target().starts_with("jobgate")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        LOGGED.with_borrow_mut(|text| span.record(&mut Text(text)));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        LOGGED.with_borrow_mut(|text| values.record(&mut Text(text)));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        LOGGED.with_borrow_mut(|text| {
            event.record(&mut Text(text));
            text.push('\n');
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
