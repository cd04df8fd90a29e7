//! Output: processing after OPOST, and the bounded queue that the driver drains.
//!
//! Always true: the queue never grows beyond its capacity; a character that becomes several bytes is queued whole or not at all.

use std::collections::VecDeque;

use crate::ctype;
use crate::termios::OutputFlags;

/// The queue is full: the character was not taken and nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Output {
    queue: VecDeque<u8>,
    capacity: usize,
    /// Where the cursor is, as far as the bytes tell; from 0.
    column: usize,
    /// Where the line that is being edited begins on the screen.
    line_column: usize,
}

impl Output {
    pub fn new(capacity: usize) -> Self {
        Output { queue: VecDeque::new(), capacity, column: 0, line_column: 0 }
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.queue.len())
    }

    pub fn clear(&mut self) {
        self.queue.clear();
    }

    pub fn take(&mut self, max: usize) -> Vec<u8> {
        let count = max.min(self.queue.len());
        self.queue.drain(..count).collect()
    }

    /// The first bytes that lie together, to look at without taking them.
    pub fn peek(&self) -> &[u8] {
        self.queue.as_slices().0
    }

    /// Everything, to look at.
    pub fn all(&mut self) -> &[u8] {
        self.queue.make_contiguous()
    }

    pub fn consume(&mut self, count: usize) {
        self.queue.drain(..count.min(self.queue.len()));
    }

    pub fn line_column(&self) -> usize {
        self.line_column
    }

    pub fn mark_line_column(&mut self) {
        self.line_column = self.column;
    }

    pub fn advance(&mut self, columns: usize) {
        self.column += columns;
    }

    pub fn back_column(&mut self) {
        self.column = self.column.saturating_sub(1);
    }

    /// Queues bytes as they are.
    pub fn put_raw(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if self.room() < bytes.len() {
            return Err(Full);
        }
        self.queue.extend(bytes);
        Ok(())
    }

    /// Queues one character under `flags`, which have OPOST. `utf8`: continuation bytes take no column.
    pub fn put_processed(&mut self, mut byte: u8, flags: OutputFlags, utf8: bool) -> Result<(), Full> {
        match byte {
            b'\n' if flags.contains(OutputFlags::ONLCR) => {
                self.put_raw(b"\r\n")?;
                self.column = 0;
                self.line_column = 0;
                return Ok(());
            }
            b'\t' if flags.contains(OutputFlags::XTABS) => {
                let spaces = 8 - self.column % 8;
                self.put_raw(b"        ".get(..spaces).unwrap_or_default())?;
                self.column += spaces;
                return Ok(());
            }
            b'\r' if flags.contains(OutputFlags::ONOCR) && self.column == 0 => return if self.room() > 0 { Ok(()) } else { Err(Full) },
            _ => {}
        }
        if self.room() == 0 {
            return Err(Full);
        }
        match byte {
            b'\n' => {
                if flags.contains(OutputFlags::ONLRET) {
                    self.column = 0;
                }
                self.line_column = self.column;
            }
            b'\r' if flags.contains(OutputFlags::OCRNL) => {
                byte = b'\n';
                if flags.contains(OutputFlags::ONLRET) {
                    self.column = 0;
                    self.line_column = 0;
                }
            }
            b'\r' => {
                self.column = 0;
                self.line_column = 0;
            }
            b'\t' => self.column += 8 - self.column % 8,
            0x08 => self.back_column(),
            _ if !ctype::is_control(byte) => {
                if flags.contains(OutputFlags::OLCUC) {
                    byte = ctype::to_upper(byte);
                }
                if !(utf8 && ctype::is_utf8_continuation(byte)) {
                    self.column += 1;
                }
            }
            _ => {}
        }
        self.put_raw(&[byte])
    }
}
