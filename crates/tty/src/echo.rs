//! Echoes that are decided but not yet output.
//!
//! Deciding what to echo and outputting it are apart because output can be stopped (IXON) or full while input goes on, and because a tab
//! can be erased only once it is known in which column the line began. When too much is pending, the oldest echoes are lost, as on Linux.

use std::collections::VecDeque;

/// One thing to echo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Echo {
    /// A byte, under the output flags.
    Byte(u8),
    /// A control character as `^X`.
    Caret(u8),
    /// The line that is being edited begins at the present column.
    MarkLineColumn,
    /// The cursor is to be thought one column further left: bytes that were output take no column.
    BackColumn,
    /// Backspace over a tab. `columns`: width of what stands between it and the tab before it, or the start of the line.
    EraseTab { columns: usize, after_tab: bool },
}

impl Echo {
    /// What this counts for against [`PENDING_LIMIT`]: the bytes that Linux keeps for it.
    fn weight(self) -> usize {
        match self {
            Echo::Byte(0xff) | Echo::Caret(_) | Echo::MarkLineColumn | Echo::BackColumn => 2,
            Echo::Byte(_) => 1,
            Echo::EraseTab { .. } => 3,
        }
    }
}

/// From this many pending bytes on, the oldest echoes are dropped.
const PENDING_LIMIT: usize = 4096 - 288;
/// Echoes of a long batch are let out in blocks of this many bytes.
const BLOCK: usize = 256;

/// Echoes in order. The positions count weights since the queue was last empty of history, so that `tail <= committed <= head`.
#[derive(Debug, Default)]
pub(crate) struct EchoQueue {
    pending: VecDeque<Echo>,
    head: usize,
    /// The end of the last echo that is whole: what a START lets out.
    mark: usize,
    /// The end of what may be output.
    committed: usize,
    tail: usize,
}

impl EchoQueue {
    pub fn push(&mut self, echo: Echo) {
        self.head += echo.weight();
        self.pending.push_back(echo);
    }

    /// Closes what one received byte echoes. Returns whether a block is full and is to be output now.
    pub fn commit(&mut self) -> bool {
        self.mark = self.head;
        let pending = self.head - self.tail;
        let full = pending >= BLOCK && pending % BLOCK <= (self.committed - self.tail) % BLOCK;
        if full {
            self.committed = self.head;
        }
        full
    }

    /// Lets out what was closed. Returns whether there is anything.
    pub fn commit_marked(&mut self) -> bool {
        let any = self.mark != self.tail;
        if any {
            self.committed = self.mark;
        }
        any
    }

    /// Lets out everything. Returns whether that is more than before.
    pub fn commit_all(&mut self) -> bool {
        std::mem::replace(&mut self.committed, self.head) != self.head
    }

    /// The next echo that may be output.
    pub fn front(&self) -> Option<Echo> {
        if self.tail < self.committed { self.pending.front().copied() } else { None }
    }

    pub fn pop(&mut self) {
        if let Some(echo) = self.pending.pop_front() {
            self.tail += echo.weight();
            self.mark = self.mark.max(self.tail);
        }
    }

    pub fn clear(&mut self) {
        *self = EchoQueue::default();
    }

    /// Drops the oldest echoes of a queue that nearly overflows.
    pub fn discard_excess(&mut self) {
        while self.committed - self.tail >= PENDING_LIMIT {
            self.pop();
        }
    }
}
