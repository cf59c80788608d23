//! What a value may be made of, as far as it comes from the question.

use std::collections::BTreeSet;

use super::fields::Node;

/// Parts of the question that a value may be, and what it may hold if it is a collection the policy built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) nodes: BTreeSet<Node>,
    pub(crate) elements: Option<Box<Shape>>,
    /// It may also be something that does not come from the question.
    pub(crate) other: bool,
}

/// Collections within collections that are told apart; what is deeper counts as this deep.
const DEPTH: usize = 4;

impl Shape {
    pub(crate) fn other() -> Self {
        Self { other: true, ..Self::default() }
    }

    pub(crate) fn of(node: Node) -> Self {
        Self { nodes: [node].into(), ..Self::default() }
    }

    /// A collection of these.
    pub(crate) fn many(elements: Self) -> Self {
        let mut shape = Self { elements: Some(Box::new(elements)), ..Self::default() };
        shape.cut(DEPTH);
        shape
    }

    /// Adds what `more` may be. True: something was new.
    pub(crate) fn join(&mut self, more: &Self) -> bool {
        let mut grown = more.other && !self.other;
        self.other |= more.other;
        let before = self.nodes.len();
        self.nodes.extend(&more.nodes);
        grown |= self.nodes.len() > before;
        match (&mut self.elements, &more.elements) {
            (Some(mine), Some(theirs)) => grown |= mine.join(theirs),
            (mine @ None, Some(theirs)) => {
                *mine = Some(theirs.clone());
                grown = true;
            }
            (_, None) => {}
        }
        grown
    }

    pub(crate) fn and(mut self, more: &Self) -> Self {
        self.join(more);
        self
    }

    /// Every part of the question in it, at any depth.
    pub(crate) fn parts(&self) -> Vec<Node> {
        let mut parts: Vec<_> = self.nodes.iter().copied().collect();
        if let Some(elements) = &self.elements {
            parts.extend(elements.parts());
        }
        parts
    }

    /// What iterating it, or an index, gives: of lists their elements; of messages nothing that is known.
    pub(crate) fn element(&self) -> Self {
        let mut element = Self { other: self.other, ..Self::default() };
        for node in &self.nodes {
            match node.element() {
                Some(below) => _ = element.nodes.insert(below),
                None => element.other = true,
            }
        }
        if let Some(elements) = &self.elements {
            element.join(elements);
        }
        element
    }

    fn cut(&mut self, depth: usize) {
        let Some(elements) = &mut self.elements else { return };
        if depth == 0 {
            let flat = Self { nodes: elements.parts().into_iter().collect(), elements: None, other: true };
            self.join(&flat);
            self.elements = None;
        } else {
            elements.cut(depth - 1);
        }
    }
}
