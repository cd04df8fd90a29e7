//! Charging kernel objects against `mem=`.

use crate::frames::Ram;

/// Bytes of kernel memory that somebody holds; given back when dropped.
pub struct Charge {
    ram: &'static Ram,
    len_bytes: usize,
}

impl Charge {
    pub(crate) fn new(ram: &'static Ram, len_bytes: usize) -> Charge {
        Charge { ram, len_bytes }
    }
    /// How much it is.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
    /// Takes over what `other` holds.
    pub fn absorb(&mut self, mut other: Charge) {
        self.len_bytes += std::mem::take(&mut other.len_bytes);
    }
    /// Gives back all but `keep_bytes`.
    pub fn shrink_to(&mut self, keep_bytes: usize) {
        let back = self.len_bytes.saturating_sub(keep_bytes);
        self.len_bytes -= back;
        self.ram.uncharge(back);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.ram.uncharge(self.len_bytes);
    }
}

impl std::fmt::Debug for Charge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Charge({})", self.len_bytes)
    }
}
