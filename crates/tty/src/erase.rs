//! Editing the line that is not complete yet: ERASE, WERASE, KILL, REPRINT, and what they show.
//!
//! With IUTF8 the unit is a character: a lead byte with its continuation bytes. A line that begins in the middle of one keeps it.

use crate::ctype;
use crate::discipline::LineDiscipline;
use crate::echo::Echo;
use crate::termios::{ControlChar, InputFlags, LocalFlags};

/// What an editing character takes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Eraser {
    Char,
    Word,
    Line,
}

impl LineDiscipline {
    /// Which eraser the byte is.
    pub(crate) fn eraser(&self, byte: u8) -> Option<Eraser> {
        if self.is_char(byte, ControlChar::Erase) {
            Some(Eraser::Char)
        } else if self.has(LocalFlags::IEXTEN) && self.is_char(byte, ControlChar::WordErase) {
            Some(Eraser::Word)
        } else if self.is_char(byte, ControlChar::Kill) {
            Some(Eraser::Line)
        } else {
            None
        }
    }

    fn continues_character(&self, byte: u8) -> bool {
        self.input_has(InputFlags::IUTF8) && ctype::is_utf8_continuation(byte)
    }

    /// Closes the `\.../` of ECHOPRT.
    pub(crate) fn finish_erasing(&mut self) {
        if std::mem::replace(&mut self.erasing, false) {
            self.echo_byte(b'/');
        }
    }

    pub(crate) fn erase(&mut self, eraser: Eraser) {
        if self.input.editing_len() == 0 {
            return;
        }
        let echo = self.has(LocalFlags::ECHO);
        if eraser == Eraser::Line {
            if !echo {
                self.input.truncate_editing(0);
                return;
            }
            if !(self.has(LocalFlags::ECHOK) && self.has(LocalFlags::ECHOKE) && self.has(LocalFlags::ECHOE)) {
                self.kill_plainly();
                return;
            }
        }
        let mut in_word = false;
        while self.input.editing_len() > 0 {
            let Some(start) = self.last_character() else { break };
            let first = self.input.editing(start).unwrap_or(0);
            if eraser == Eraser::Word {
                if ctype::is_word(first) {
                    in_word = true;
                } else if in_word {
                    break;
                }
            }
            self.erase_from(start, first, eraser);
            if eraser == Eraser::Char {
                break;
            }
        }
        if self.input.editing_len() == 0 && echo {
            self.finish_erasing();
        }
    }

    /// KILL without ECHOKE: the line goes, and its kill character is shown, on a line of its own with ECHOK.
    fn kill_plainly(&mut self) {
        self.input.truncate_editing(0);
        self.finish_erasing();
        if let Some(kill) = self.termios().char(ControlChar::Kill) {
            self.echo_char(kill);
        }
        if self.has(LocalFlags::ECHOK) {
            self.echo_byte(b'\n');
        }
    }

    /// Where the last character of the line starts; `None` if the line holds only the tail of one.
    fn last_character(&self) -> Option<usize> {
        (0..self.input.editing_len()).rev().find(|&at| self.input.editing(at).is_some_and(|byte| !self.continues_character(byte)))
    }

    fn erase_from(&mut self, start: usize, first: u8, eraser: Eraser) {
        let rest: Vec<u8> = (start + 1..self.input.editing_len()).filter_map(|at| self.input.editing(at)).collect();
        self.input.truncate_editing(start);
        if !self.has(LocalFlags::ECHO) {
            return;
        }
        if self.has(LocalFlags::ECHOPRT) {
            if !std::mem::replace(&mut self.erasing, true) {
                self.echo_byte(b'\\');
            }
            self.echo_char(first);
            for byte in rest {
                self.echo_byte(byte);
                self.push_echo(Echo::BackColumn);
            }
        } else if eraser == Eraser::Char && !self.has(LocalFlags::ECHOE) {
            if let Some(erase) = self.termios().char(ControlChar::Erase) {
                self.echo_char(erase);
            }
        } else if first == b'\t' {
            let echo = self.erase_tab();
            self.push_echo(echo);
        } else {
            let caret = self.has(LocalFlags::ECHOCTL);
            let columns = match ctype::is_control(first) {
                true if caret => 2,
                true => 0,
                false => 1,
            };
            for _ in 0..columns {
                self.echo_byte(0x08);
                self.echo_byte(b' ');
                self.echo_byte(0x08);
            }
        }
    }

    /// How wide a tab at the end of the line was depends on what stands before it.
    fn erase_tab(&self) -> Echo {
        let mut columns = 0;
        for at in (0..self.input.editing_len()).rev() {
            match self.input.editing(at).unwrap_or(0) {
                b'\t' => return Echo::EraseTab { columns, after_tab: true },
                byte if ctype::is_control(byte) => columns += if self.has(LocalFlags::ECHOCTL) { 2 } else { 0 },
                byte if self.continues_character(byte) => {}
                _ => columns += 1,
            }
        }
        Echo::EraseTab { columns, after_tab: false }
    }

    /// REPRINT: shows the unfinished line again below.
    pub(crate) fn reprint(&mut self, reprint: u8) {
        self.finish_erasing();
        self.echo_char(reprint);
        self.echo_byte(b'\n');
        for at in 0..self.input.editing_len() {
            if let Some(byte) = self.input.editing(at) {
                self.echo_char(byte);
            }
        }
    }
}
