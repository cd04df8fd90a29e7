//! The little program that `FUTEX_WAKE_OP` carries in its last argument, futex(2).

use abi::Errno;

/// `FUTEX_OP(op, oparg, cmp, cmparg)`, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WakeOp {
    op: u32,
    argument: u32,
    compare: u32,
    against: u32,
}

impl WakeOp {
    /// From the argument as it was passed.
    #[must_use]
    pub fn decode(encoded: u32) -> WakeOp {
        let signed12 = |field: u32| (((field & 0xfff) << 20) as i32 >> 20) as u32;
        let op = encoded >> 28;
        let mut argument = signed12(encoded >> 12);
        if op & 8 != 0 {
            // FUTEX_OP_ARG_SHIFT. Linux masks a shift that is too large.
            argument = 1 << (argument & 31);
        }
        WakeOp { op: op & 7, argument, compare: (encoded >> 24) & 15, against: signed12(encoded) }
    }

    /// The new value of the word.
    pub(super) fn apply(self, old: u32) -> Result<u32, Errno> {
        Ok(match self.op {
            0 => self.argument,
            1 => old.wrapping_add(self.argument),
            2 => old | self.argument,
            3 => old & !self.argument,
            4 => old ^ self.argument,
            _ => return Err(Errno::ENOSYS),
        })
    }

    /// Whether the old value asks for the second wake.
    pub(super) fn test(self, old: u32) -> Result<bool, Errno> {
        let (old, against) = (old as i32, self.against as i32);
        Ok(match self.compare {
            0 => old == against,
            1 => old != against,
            2 => old < against,
            3 => old <= against,
            4 => old > against,
            5 => old >= against,
            _ => return Err(Errno::ENOSYS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(op: u32, argument: u32, compare: u32, against: u32) -> WakeOp {
        WakeOp::decode((op << 28) | (compare << 24) | ((argument & 0xfff) << 12) | (against & 0xfff))
    }

    #[test]
    fn operations_and_comparisons_are_those_of_futex_2() {
        for (code, argument, old, new) in
            [(0, 5, 9, 5), (1, 5, 9, 14), (2, 6, 9, 15), (3, 8, 9, 1), (4, 1, 9, 8), (1, 0xfff, 9, 8), (8, 4, 9, 16)]
        {
            assert_eq!(op(code, argument, 0, 0).apply(old), Ok(new), "{code}");
        }
        for (code, against, old, yes) in
            [(0, 1, 1, true), (1, 1, 1, false), (2, 0, u32::MAX, true), (3, 2, 2, true), (4, 0xfff, 0, true), (5, 3, 2, false)]
        {
            assert_eq!(op(0, 0, code, against).test(old), Ok(yes), "{code}");
        }
        assert_eq!(op(7, 0, 0, 0).apply(0), Err(Errno::ENOSYS));
        assert_eq!(op(0, 0, 9, 0).test(0), Err(Errno::ENOSYS));
    }
}
