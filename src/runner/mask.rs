//! Secrets leave no trace in a job's output, however the output is cut into pieces.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// What stands where a secret stood.
pub(super) const MASK: &[u8] = b"[MASKED]";

/// A longer list of secrets is refused: it would cost every byte of output too much memory.
pub(super) const MAX_SECRET_BYTES: usize = 256 * 1024;

/// Replaces every secret in a stream of bytes. Bytes that may begin a secret are held back until that is known.
///
/// All secrets are sought at once (Aho and Corasick), so that the cost per byte does not grow with their number. Where
/// secrets overlap, all of what they cover is replaced.
pub(super) struct Masker {
    nodes: Vec<Node>,
    /// Where the search stands.
    at: usize,
    /// Bytes not yet given out, and the place of the first of them in the stream.
    held: VecDeque<u8>,
    start: u64,
    /// What secrets cover from `start` on, in order, apart from each other.
    covered: VecDeque<(u64, u64)>,
    /// Whether the mask for the first of `covered` was given out.
    announced: bool,
}

/// A prefix of some secret.
#[derive(Default)]
struct Node {
    byte: u8,
    child: usize,
    sibling: usize,
    /// The longest other prefix that this one ends with.
    fallback: usize,
    depth: usize,
    /// Length of the longest secret that this prefix ends with, 0 if none.
    ends: usize,
}

const ROOT: usize = 0;

impl Masker {
    /// Empty secrets are ignored.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut nodes = vec![Node::default()];
        for secret in secrets {
            let mut at = ROOT;
            for &byte in secret {
                at = child(&nodes, at, byte).unwrap_or_else(|| grow(&mut nodes, at, byte));
            }
            nodes[at].ends = nodes[at].depth;
        }
        link(&mut nodes);
        Self { nodes, at: ROOT, held: VecDeque::new(), start: 0, covered: VecDeque::new(), announced: false }
    }

    /// Takes a piece of the stream, and gives what can be given out.
    pub(super) fn push(&mut self, piece: &[u8]) -> Bytes {
        if self.nodes.len() == 1 {
            return Bytes::copy_from_slice(piece);
        }
        let mut end = self.start + self.held.len() as u64;
        for &byte in piece {
            self.at = step(&self.nodes, self.at, byte);
            end += 1;
            let length = self.nodes[self.at].ends;
            if length > 0 {
                self.cover(end - length as u64, end);
            }
        }
        self.held.extend(piece);
        self.release(end - self.nodes[self.at].depth as u64)
    }

    /// The stream is over: gives the rest.
    pub(super) fn finish(&mut self) -> Bytes {
        self.at = ROOT;
        self.release(self.start + self.held.len() as u64)
    }

    fn cover(&mut self, mut from: u64, until: u64) {
        while let Some(&(start, end)) = self.covered.back() {
            if end <= from {
                break;
            }
            from = from.min(start);
            self.covered.pop_back();
        }
        self.covered.push_back((from, until));
    }

    /// Gives out everything before `safe`: no secret can begin there any more.
    fn release(&mut self, safe: u64) -> Bytes {
        let mut out = BytesMut::new();
        while let Some(&(from, until)) = self.covered.front() {
            if from >= safe {
                break;
            }
            self.give(from, &mut out);
            if !self.announced {
                out.extend_from_slice(MASK);
                self.announced = true;
            }
            self.drop_until(until.min(safe));
            if until > safe {
                return out.freeze();
            }
            self.covered.pop_front();
            self.announced = false;
        }
        self.give(safe, &mut out);
        out.freeze()
    }

    fn give(&mut self, until: u64, out: &mut BytesMut) {
        let count = until.saturating_sub(self.start) as usize;
        out.extend(self.held.drain(..count));
        self.start += count as u64;
    }

    fn drop_until(&mut self, until: u64) {
        let count = until.saturating_sub(self.start) as usize;
        self.held.drain(..count);
        self.start += count as u64;
    }
}

fn child(nodes: &[Node], at: usize, byte: u8) -> Option<usize> {
    let mut child = nodes[at].child;
    while child != ROOT {
        if nodes[child].byte == byte {
            return Some(child);
        }
        child = nodes[child].sibling;
    }
    None
}

fn grow(nodes: &mut Vec<Node>, at: usize, byte: u8) -> usize {
    let new = nodes.len();
    nodes.push(Node { byte, sibling: nodes[at].child, depth: nodes[at].depth + 1, ..Node::default() });
    nodes[at].child = new;
    new
}

fn step(nodes: &[Node], mut at: usize, byte: u8) -> usize {
    loop {
        match child(nodes, at, byte) {
            Some(next) => return next,
            None if at == ROOT => return ROOT,
            None => at = nodes[at].fallback,
        }
    }
}

/// Breadth first, so that every fallback is complete before it is needed.
fn link(nodes: &mut [Node]) {
    let mut queue = VecDeque::from([ROOT]);
    while let Some(at) = queue.pop_front() {
        let mut next = nodes[at].child;
        while next != ROOT {
            let fallback = match at {
                ROOT => ROOT,
                _ => step(nodes, nodes[at].fallback, nodes[next].byte),
            };
            nodes[next].fallback = fallback;
            nodes[next].ends = nodes[next].ends.max(nodes[fallback].ends);
            queue.push_back(next);
            next = nodes[next].sibling;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let mut masker = Masker::new(secrets.iter().map(|secret| secret.as_bytes()));
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(masker.push(piece.as_bytes()));
        }
        out.extend(masker.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn secrets_are_replaced_wherever_the_stream_is_cut() {
        let text = "a hunter2 b hunter22 c hunte r2 hunter2";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            assert_eq!(masked(&["hunter2"], &[head, tail]), "a [MASKED] b [MASKED]2 c hunte r2 [MASKED]");
        }
        let single: Vec<_> = text.split_inclusive(|_| true).collect();
        assert_eq!(masked(&["hunter2"], &single), "a [MASKED] b [MASKED]2 c hunte r2 [MASKED]");
    }

    #[test]
    fn overlapping_and_nested_secrets_leave_nothing() {
        assert_eq!(masked(&["abcd", "cdef"], &["xabcdefx"]), "x[MASKED]x");
        assert_eq!(masked(&["bc", "abcde"], &["abcde abcx"]), "[MASKED] a[MASKED]x");
        assert_eq!(masked(&["bc", "abcde"], &["abcd", "x"]), "a[MASKED]dx");
        assert_eq!(masked(&["aa"], &["a", "a", "a", "a", "a b a"]), "[MASKED] b a");
        assert_eq!(masked(&["abab", "b"], &["aba", "babx"]), "[MASKED]x");
    }

    #[test]
    fn nothing_is_held_back_without_reason() {
        let mut masker = Masker::new([b"hunter2".as_slice()]);
        assert_eq!(masker.push(b"progress 10%"), "progress 10%");
        assert_eq!(masker.push(b" h"), " ");
        assert_eq!(masker.push(b"i"), "hi");
        assert_eq!(Masker::new([]).push(b"x\xff"), b"x\xff".as_slice());
        assert_eq!(masked(&[""], &["text"]), "text");
    }

    /// A stream that is one single secret over and over must not pile up.
    #[test]
    fn an_endless_secret_costs_no_memory() {
        let secret = "a".repeat(1000);
        let mut masker = Masker::new([secret.as_bytes()]);
        let piece = vec![b'a'; 64 * 1024];
        let given: usize = (0..100).map(|_| masker.push(&piece).len()).sum();
        assert_eq!(given, MASK.len());
        assert!(masker.held.len() <= secret.len() && masker.covered.len() <= 1);
    }

    /// Compared with the plainest masking there is, on random secrets, streams and cuts over a small alphabet.
    #[test]
    fn it_agrees_with_looking_at_the_whole_stream() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..3000 {
            let mut word = |length: u64| (0..length).map(|_| b'a' + random(3) as u8).collect::<Vec<_>>();
            let secrets: Vec<_> = [1, 2, 3, 5].into_iter().map(&mut word).skip_while(|s| s.len() < 2).collect();
            let stream = word(40);
            let mut masker = Masker::new(secrets.iter().map(Vec::as_slice));
            let mut out = Vec::new();
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(1 + random(rest.len() as u64) as usize);
                out.extend(masker.push(piece));
                rest = tail;
            }
            out.extend(masker.finish());
            assert_eq!(out, plain(&secrets, &stream), "{secrets:?} in {stream:?}");
        }
    }

    fn plain(secrets: &[Vec<u8>], stream: &[u8]) -> Vec<u8> {
        let mut hits: Vec<(usize, usize)> = Vec::new();
        for from in 0..stream.len() {
            let longest = secrets.iter().filter(|s| stream[from..].starts_with(s)).map(Vec::len).max();
            let Some(length) = longest else { continue };
            match hits.last_mut() {
                Some((_, until)) if *until > from => *until = (*until).max(from + length),
                _ => hits.push((from, from + length)),
            }
        }
        let mut out = Vec::new();
        let mut at = 0;
        for (from, until) in hits {
            out.extend(&stream[at..from]);
            out.extend(MASK);
            at = until;
        }
        out.extend(&stream[at..]);
        out
    }
}
