//! Whose turn it is: the lines that nobody has looked at yet.

use std::collections::VecDeque;
use std::sync::Arc;

/// A line's place in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LineId {
    /// The take's number.
    pub(super) take: u64,
    /// Which of its lines.
    pub(super) at: u32,
}

/// The lines that nobody has looked at yet, by spools, which take turns: one that is full holds no other one up.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<(Arc<str>, VecDeque<LineId>)>);

impl Queue {
    fn of(&mut self, dir: &Arc<str>) -> Option<&mut VecDeque<LineId>> {
        let spool = self.0.iter_mut().find(|(other, _)| other == dir);
        spool.map(|(_, ids)| ids)
    }

    pub(super) fn add(&mut self, dir: &Arc<str>, ids: impl Iterator<Item = LineId>) {
        match self.of(dir) {
            Some(queue) => queue.extend(ids),
            None => self.0.push_back((Arc::clone(dir), ids.collect())),
        }
    }

    /// The next one.
    pub(super) fn first(&self) -> Option<LineId> {
        self.0.front()?.1.front().copied()
    }

    /// Takes the next one out; then it is another spool's turn.
    pub(super) fn take_first(&mut self) {
        if let Some((dir, mut ids)) = self.0.pop_front() {
            ids.pop_front();
            if !ids.is_empty() {
                self.0.push_back((dir, ids));
            }
        }
    }

    /// Puts one back that was taken out: it is the next one again.
    pub(super) fn put_back(&mut self, dir: &Arc<str>, id: LineId) {
        let at = self.0.iter().position(|(other, _)| other == dir);
        let spool = at.and_then(|at| self.0.remove(at));
        let (dir, mut ids) = spool.unwrap_or_else(|| (Arc::clone(dir), VecDeque::new()));
        ids.push_front(id);
        self.0.push_front((dir, ids));
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(_, ids)| ids.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spools_take_turns_and_what_is_put_back_is_the_next_one() {
        let mut queue = Queue::default();
        let (many, few): (Arc<str>, Arc<str>) = ("/many".into(), "/few".into());
        let id = |take, at| LineId { take, at };
        queue.add(&many, (0..3).map(|at| id(1, at)));
        queue.add(&few, [id(2, 0)].into_iter());
        queue.add(&many, [id(3, 0)].into_iter());
        let mut seen = Vec::new();
        while let Some(first) = queue.first() {
            queue.take_first();
            if seen.len() == 1 && !seen.contains(&first) {
                let of = if first.take == 2 { &few } else { &many };
                queue.put_back(of, first);
                assert_eq!(queue.first(), Some(first));
                assert_eq!(queue.len(), 4);
                queue.take_first();
            }
            seen.push(first);
        }
        assert_eq!(seen, [id(1, 0), id(2, 0), id(1, 1), id(1, 2), id(3, 0)]);
        assert_eq!(queue.len(), 0);
    }
}
