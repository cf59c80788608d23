//! The conformance suite: examines any controller that listens, in any language, from outside.
