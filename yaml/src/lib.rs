//! YAML and JSON read strictly: a [`Document`] that knows where every value stands, [`Fields`] that complain about unknown
//! keys by the nearest known one, and [`Faults`] that name everything wrong with an input at once.
//!
//! Parsing itself is `serde-saphyr`'s. Duplicate keys, alias bombs, deep nesting and oversize are faults; a plain scalar is
//! text only where it looks like nothing else (`"1"` is text, `1` is a number, `yes` is text as YAML 1.2 has it).
//!
//! ```
//! use jobgate_yaml::{Document, Limits, Reader, Source};
//!
//! let source = Source::new("gate.yaml", "listen: here\nprot: 80\n");
//! let document = Document::parse(&source, Limits::default()).unwrap();
//! let reader = Reader::new(&source);
//! if let Some(mut fields) = reader.fields(document.root(), "a gate") {
//!     let _listen = fields.take("listen").and_then(|node| reader.string(node));
//!     let _port = fields.take("port").and_then(|node| reader.integer(node, 1..=65_535));
//!     fields.finish();
//! }
//! let faults = reader.finish(()).unwrap_err();
//! assert!(faults.to_string().starts_with("gate.yaml:2:1: unknown key `prot`; did you mean `port`?"));
//! ```

mod document;
mod fault;
mod nearest;
mod reader;

pub use document::{Document, Entry, Limits, Node, Value};
pub use fault::{Fault, Faults, Place, Source};
pub use nearest::nearest;
pub use reader::{Fields, Reader};
