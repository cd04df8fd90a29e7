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

#[derive(Debug, Default)]
pub(crate) struct EchoQueue {
    pending: VecDeque<Echo>,
    weight: usize,
}

impl EchoQueue {
    pub fn push(&mut self, echo: Echo) {
        self.weight += echo.weight();
        self.pending.push_back(echo);
    }

    pub fn front(&self) -> Option<Echo> {
        self.pending.front().copied()
    }

    pub fn pop(&mut self) {
        if let Some(echo) = self.pending.pop_front() {
            self.weight -= echo.weight();
        }
    }

    pub fn clear(&mut self) {
        self.pending.clear();
        self.weight = 0;
    }

    /// Drops the oldest echoes of a queue that nearly overflows.
    pub fn discard_excess(&mut self) {
        while self.weight >= PENDING_LIMIT {
            self.pop();
        }
    }
}
