//! What children do first. Pages that the children of an address space touched soon after fork(2) are noted, so that the next child has them
//! from the start: a fault costs ten times what a page in a batch does.
//!
//! What it is not: anything that changes what a program sees. A page that is noted for nothing costs its mapping or its copy.

use std::sync::Arc;
use sync::SpinLock;

/// Rows of pages remembered as touched, and pages remembered as stored to.
const ROWS: usize = 8;
const STORED: usize = 16;
/// Pages in a row: what a fault brings.
pub(crate) const ROW: u64 = 16;
/// Faults of a child that are noted.
const NOTED: u8 = 12;
/// Forks after which all is forgotten: what children do changes, and nobody notices what they don't need any more.
const REMEMBERED: u32 = 32;

/// What is known of an address space's children.
#[derive(Clone)]
pub(crate) struct Lessons {
    forks: u32,
    rows: [u64; ROWS],
    next_row: usize,
    stored: [u64; STORED],
    next_stored: usize,
}

impl Default for Lessons {
    fn default() -> Lessons {
        Lessons { forks: 0, rows: [u64::MAX; ROWS], next_row: 0, stored: [u64::MAX; STORED], next_stored: 0 }
    }
}

impl Lessons {
    fn note(&mut self, page: u64, stores: bool) {
        let (list, next, what) = if stores {
            (&mut self.stored[..], &mut self.next_stored, page)
        } else {
            (&mut self.rows[..], &mut self.next_row, page / ROW * ROW)
        };
        if !list.contains(&what) {
            // The oldest makes room.
            if let Some(place) = list.get_mut(*next) {
                *place = what;
            }
            *next = (*next + 1) % list.len();
        }
    }

    /// What the next child shall have.
    pub fn for_a_child(&mut self) -> Lessons {
        self.forks += 1;
        if self.forks >= REMEMBERED {
            *self = Lessons::default();
        }
        self.clone()
    }

    /// First pages of the rows to show a child.
    pub fn rows(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().copied().filter(|row| *row != u64::MAX)
    }
    /// Pages to copy for a child.
    pub fn stored(&self) -> impl Iterator<Item = u64> {
        self.stored.iter().copied().filter(|page| *page != u64::MAX)
    }
}

/// An address space that was made by fork, as long as what it does is noted.
pub(crate) struct Pupil {
    parents: Arc<SpinLock<Lessons>>,
    left: u8,
}

impl Pupil {
    pub fn new(parents: Arc<SpinLock<Lessons>>) -> Pupil {
        Pupil { parents, left: NOTED }
    }
    /// Notes a fault; `false` when that was the last to note.
    pub fn note(&mut self, page: u64, stores: bool) -> bool {
        self.parents.lock().note(page, stores);
        self.left -= 1;
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_children_touch_is_known_once_and_the_oldest_makes_room() {
        let lessons = Arc::new(SpinLock::new(Lessons::default()));
        let mut pupil = Pupil::new(lessons.clone());
        for page in [100, 101, 3] {
            assert!(pupil.note(page, false));
        }
        assert!(pupil.note(7, true) && pupil.note(7, true));
        assert_eq!(lessons.lock().rows().collect::<Vec<_>>(), [96, 0]);
        assert_eq!(lessons.lock().stored().collect::<Vec<_>>(), [7]);
        // Five are noted already.
        let noted = (6_u32..).find(|_| !pupil.note(50, true));
        assert_eq!(noted, Some(u32::from(NOTED)), "a child is watched for so many faults");
        assert_eq!(lessons.lock().for_a_child().stored().count(), 2);
        let mut other = Pupil::new(lessons.clone());
        for row in 1..=ROWS as u64 {
            other.note(row * 1000 * ROW, false);
        }
        assert_eq!(lessons.lock().rows().count(), ROWS);
        assert!(lessons.lock().rows().all(|row| row >= 1000 * ROW));
        let last = (0..REMEMBERED).map(|_| lessons.lock().for_a_child().rows().count()).min();
        assert_eq!(last, Some(0), "all is forgotten now and then");
    }
}
