//! What a request is about, told from a normalised copy of its path.
