//! The input buffer: what was received and not yet read, with where lines end.
//!
//! Always true: at most [`INPUT_BUFFER_BYTES`] cells; `lines <= cells.len()`; the cells from `lines` on are the line that is being edited.

use std::collections::VecDeque;

use crate::INPUT_BUFFER_BYTES;

/// One received byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub byte: u8,
    /// Whether this byte ends a line. An end of file is a 0 that ends a line: it is counted as room, and is not given to the reader.
    pub ends_line: bool,
}

/// The byte that stands for an end of file.
pub(crate) const EOF_MARK: u8 = 0;

impl Cell {
    fn is_eof(self) -> bool {
        self.ends_line && self.byte == EOF_MARK
    }
}

#[derive(Debug)]
pub(crate) struct Input {
    cells: VecDeque<Cell>,
    /// How many cells at the front are complete lines.
    lines: usize,
    /// Whether nothing was received since the last line ended. Without lines, reading does not change that.
    at_line_start: bool,
}

impl Input {
    pub fn new() -> Self {
        Input { cells: VecDeque::new(), lines: 0, at_line_start: true }
    }

    pub fn is_at_line_start(&self) -> bool {
        self.at_line_start
    }

    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Cells in complete lines.
    pub fn lines_len(&self) -> usize {
        self.lines
    }

    /// Cells after the last complete line: what editing can still change.
    pub fn editing_len(&self) -> usize {
        self.cells.len() - self.lines
    }

    /// The byte `index` cells into the line that is being edited.
    pub fn editing(&self, index: usize) -> Option<u8> {
        self.cells.get(self.lines + index).map(|cell| cell.byte)
    }

    /// Shortens the line that is being edited to `len` cells.
    pub fn truncate_editing(&mut self, len: usize) {
        self.cells.truncate(self.lines + len);
        self.at_line_start = self.editing_len() == 0;
    }

    pub fn push(&mut self, byte: u8) {
        if self.cells.len() < INPUT_BUFFER_BYTES {
            self.cells.push_back(Cell { byte, ends_line: false });
        }
        self.at_line_start = false;
    }

    /// Drops the newest cell of the line that is being edited.
    pub fn pop_editing(&mut self) {
        if self.editing_len() > 0 {
            self.cells.pop_back();
            self.at_line_start = self.editing_len() == 0;
        }
    }

    pub fn push_line_end(&mut self, byte: u8) {
        if self.cells.len() < INPUT_BUFFER_BYTES {
            self.cells.push_back(Cell { byte, ends_line: true });
        }
        self.lines = self.cells.len();
        self.at_line_start = true;
    }

    pub fn clear(&mut self) {
        *self = Input::new();
    }

    /// Forgets where lines end. `as_one_line`: all that is there becomes one line, which its last byte ends; otherwise none of it is one.
    pub fn reframe(&mut self, as_one_line: bool) {
        for cell in &mut self.cells {
            cell.ends_line = false;
        }
        self.lines = 0;
        if as_one_line && let Some(last) = self.cells.back_mut() {
            last.ends_line = true;
            self.lines = self.cells.len();
        }
        self.at_line_start = self.editing_len() == 0;
    }

    /// Moves bytes without regard to lines. Returns how many.
    pub fn take_raw(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.cells.len());
        for (slot, cell) in buf.iter_mut().zip(self.cells.drain(..count)) {
            *slot = cell.byte;
        }
        self.lines = self.lines.saturating_sub(count);
        count
    }

    /// Moves bytes up to the end of the first line. Returns how many.
    ///
    /// A line that fits exactly takes its end-of-file mark with it, or the next read would see an end of file that is none.
    pub fn take_line(&mut self, buf: &mut [u8]) -> usize {
        let mut count = 0;
        while let Some(&cell) = self.cells.front().filter(|_| self.lines > 0) {
            if !cell.is_eof() {
                let Some(slot) = buf.get_mut(count) else { break };
                *slot = cell.byte;
                count += 1;
            }
            self.cells.pop_front();
            self.lines -= 1;
            if cell.ends_line {
                break;
            }
        }
        count
    }

    /// Bytes in complete lines that a reader would get, FIONREAD.
    pub fn readable_line_bytes(&self) -> usize {
        self.cells.iter().take(self.lines).filter(|cell| !cell.is_eof()).count()
    }
}
