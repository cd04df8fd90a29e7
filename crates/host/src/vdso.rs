//! The guest's vDSO: a small shared object that answers clock questions without a system call.
//!
//! Our code does not read the processor's counter itself. The host's own vDSO stays mapped in every stub (its pages are the host's, read-only), and
//! ours calls it and adds the machine's offsets from a page of ours, so guest time costs what host time costs and agrees with what our system
//! calls say. Where the page says "trap" (a stopped or virtual clock), or the host's vDSO has to make a call, the kernel answers.
//!
//! Source: vdso(7); the ELF tables are those that glibc, musl and Go look at.

use std::arch::global_asm;

/// Page 0 holds the image, page 1 the data.
pub const LEN_PAGES: usize = 2;

/// Offsets in the data page, which lies one page behind the image.
const DATA_TRAP: usize = 0x00;
const DATA_HOST_CLOCK_GETTIME: usize = 0x08;
/// Nanoseconds to add: to clock 0 and 5 (realtime), to clock 1, 4 and 6 (monotonic), to clock 7 (boottime).
const DATA_OFFSETS: usize = 0x10;

global_asm!(
    r#"
.pushsection .text.umlaut_vdso,"ax",@progbits
.balign 16
.globl umlaut_vdso_start, umlaut_vdso_end, umlaut_vdso_clock_gettime, umlaut_vdso_gettimeofday, umlaut_vdso_time, umlaut_vdso_clock_getres, umlaut_vdso_getcpu
# The image is laid out so that this code begins at {code_at} in page 0; data is found relative to the code.
umlaut_vdso_start:
umlaut_vdso_clock_gettime:
    lea umlaut_vdso_start(%rip), %rax
    add $({page} - {code_at}), %rax
    cmpq $0, {trap}(%rax)
    jne 8f
    cmp $7, %edi
    ja 8f
    mov $0xf3, %ecx
    bt %edi, %ecx
    jnc 8f
    push %rbx
    push %r12
    push %r13
    push %r14
    sub $8, %rsp
    mov %edi, %r12d
    mov %rsi, %r13
    mov {host}(%rax), %rbx
    # Which offset: 0 and 5 the first, 7 the third, the rest the second.
    xor %ecx, %ecx
    test %edi, %edi
    jz 1f
    cmp $5, %edi
    je 1f
    inc %ecx
    cmp $7, %edi
    jne 1f
    inc %ecx
1:  lea {offsets}(%rax,%rcx,8), %r14
5:  mov (%r14), %rax
    mov %rax, (%rsp)
    mov %r12d, %edi
    mov %r13, %rsi
    call *%rbx
    test %eax, %eax
    jnz 7f
    # The machine was stopped and went on in between: the host's time and the offset must be of one piece.
    mov (%r14), %rax
    cmp %rax, (%rsp)
    jne 5b
    test %rax, %rax
    jz 6f
    # seconds and nanoseconds of the offset are added apart: offset = q * 1e9 + r with 0 <= r < 1e9
    cqto
    mov $1000000000, %ecx
    idiv %rcx
    test %rdx, %rdx
    jns 2f
    add %rcx, %rdx
    dec %rax
2:  add %rax, (%r13)
    add 8(%r13), %rdx
    cmp %rcx, %rdx
    jb 3f
    sub %rcx, %rdx
    incq (%r13)
3:  mov %rdx, 8(%r13)
6:  xor %eax, %eax
7:  add $8, %rsp
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    ret
8:  mov $228, %eax
    syscall
    ret
.balign 16
umlaut_vdso_gettimeofday:
    test %rsi, %rsi
    jnz 1f
    test %rdi, %rdi
    jz 2f
    push %rbx
    mov %rdi, %rbx
    sub $16, %rsp
    xor %edi, %edi
    mov %rsp, %rsi
    call umlaut_vdso_clock_gettime
    mov (%rsp), %rcx
    mov 8(%rsp), %rax
    add $16, %rsp
    mov %rcx, (%rbx)
    xor %edx, %edx
    mov $1000, %ecx
    div %rcx
    mov %rax, 8(%rbx)
    pop %rbx
2:  xor %eax, %eax
    ret
1:  mov $96, %eax
    syscall
    ret
.balign 16
umlaut_vdso_time:
    push %rbx
    mov %rdi, %rbx
    sub $16, %rsp
    xor %edi, %edi
    mov %rsp, %rsi
    call umlaut_vdso_clock_gettime
    mov (%rsp), %rax
    add $16, %rsp
    test %rbx, %rbx
    jz 1f
    mov %rax, (%rbx)
1:  pop %rbx
    ret
.balign 16
umlaut_vdso_clock_getres:
    mov $229, %eax
    syscall
    ret
.balign 16
umlaut_vdso_getcpu:
    mov $309, %eax
    syscall
    ret
umlaut_vdso_end:
.popsection
"#,
    page = const 4096,
    code_at = const CODE_AT,
    trap = const DATA_TRAP,
    host = const DATA_HOST_CLOCK_GETTIME,
    offsets = const DATA_OFFSETS,
    options(att_syntax)
);

unsafe extern "C" {
    static umlaut_vdso_start: u8;
    static umlaut_vdso_end: u8;
    static umlaut_vdso_clock_gettime: u8;
    static umlaut_vdso_gettimeofday: u8;
    static umlaut_vdso_time: u8;
    static umlaut_vdso_clock_getres: u8;
    static umlaut_vdso_getcpu: u8;
}

const CODE_AT: usize = 0x800;
const PHDR_AT: usize = 64;
const DYNAMIC_AT: usize = 0x100;
const SYMBOLS_AT: usize = 0x200;
const STRINGS_AT: usize = 0x340;
const HASH_AT: usize = 0x500;

/// What the data page says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Data {
    /// Every question goes to the kernel.
    pub trap: bool,
    /// What the guest's clocks show more than the host's, nanoseconds: realtime, monotonic, boottime.
    pub offsets_ns: [i64; 3],
}

impl Data {
    /// The page's bytes. `host_clock_gettime` is the function in the stub; 0 where there is none, which traps.
    #[must_use]
    pub fn bytes(&self, host_clock_gettime: u64) -> Vec<u8> {
        let trap = u64::from(self.trap || host_clock_gettime == 0);
        let mut page = vec![0; 4096];
        page[DATA_TRAP..DATA_TRAP + 8].copy_from_slice(&trap.to_ne_bytes());
        page[DATA_HOST_CLOCK_GETTIME..DATA_HOST_CLOCK_GETTIME + 8].copy_from_slice(&host_clock_gettime.to_ne_bytes());
        for (i, offset) in self.offsets_ns.iter().enumerate() {
            page[DATA_OFFSETS + 8 * i..DATA_OFFSETS + 8 * i + 8].copy_from_slice(&offset.to_ne_bytes());
        }
        page
    }
}

/// The image: one page, an ELF shared object.
#[must_use]
pub fn image() -> Vec<u8> {
    let start = &raw const umlaut_vdso_start;
    // SAFETY: both symbols delimit one run of this program's text, which is never written.
    let code = unsafe { std::slice::from_raw_parts(start, &raw const umlaut_vdso_end as usize - start as usize) };
    let offset = |symbol: *const u8| (CODE_AT + symbol as usize - start as usize) as u64;
    let symbols = [
        ("__vdso_clock_gettime", offset(&raw const umlaut_vdso_clock_gettime)),
        ("clock_gettime", offset(&raw const umlaut_vdso_clock_gettime)),
        ("__vdso_gettimeofday", offset(&raw const umlaut_vdso_gettimeofday)),
        ("gettimeofday", offset(&raw const umlaut_vdso_gettimeofday)),
        ("__vdso_time", offset(&raw const umlaut_vdso_time)),
        ("time", offset(&raw const umlaut_vdso_time)),
        ("__vdso_clock_getres", offset(&raw const umlaut_vdso_clock_getres)),
        ("clock_getres", offset(&raw const umlaut_vdso_clock_getres)),
        ("__vdso_getcpu", offset(&raw const umlaut_vdso_getcpu)),
        ("getcpu", offset(&raw const umlaut_vdso_getcpu)),
    ];
    let mut page = vec![0u8; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let words = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();

    let mut strings = b"\0linux-vdso.so.1\0".to_vec();
    let mut table = vec![0u8; 24];
    for (name, value) in symbols {
        table.extend((strings.len() as u32).to_le_bytes());
        // STB_GLOBAL STT_FUNC, default visibility, section 1.
        table.extend([0x12, 0, 1, 0]);
        table.extend(words(&[value, 16]));
        strings.extend(name.as_bytes());
        strings.push(0);
    }
    // One bucket with all symbols in a chain.
    let count = symbols.len() as u32 + 1;
    let mut hash: Vec<u32> = vec![1, count, 1, 0];
    hash.extend((1..count).map(|i| if i + 1 < count { i + 1 } else { 0 }));
    let hash: Vec<u8> = hash.iter().flat_map(|v| v.to_le_bytes()).collect();
    let dynamic = [
        (14, 1),                    // DT_SONAME
        (4, HASH_AT as u64),        // DT_HASH
        (5, STRINGS_AT as u64),     // DT_STRTAB
        (6, SYMBOLS_AT as u64),     // DT_SYMTAB
        (10, strings.len() as u64), // DT_STRSZ
        (11, 24),                   // DT_SYMENT
        (0, 0),
    ];
    let dynamic: Vec<u8> = dynamic.iter().flat_map(|(tag, value)| words(&[*tag, *value])).collect();
    assert!(SYMBOLS_AT + table.len() <= STRINGS_AT && STRINGS_AT + strings.len() <= HASH_AT);
    assert!(HASH_AT + hash.len() <= CODE_AT && CODE_AT + code.len() <= 4096);

    put(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    // ET_DYN, EM_X86_64, version 1.
    put(16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &words(&[0, PHDR_AT as u64, 0]));
    // flags, header sizes: 64 bytes, program headers of 56 bytes, two of them, section headers of 64 bytes, none.
    put(48, &[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    let header = |kind: u64, flags: u64, at: u64, len: u64, align: u64| words(&[kind | flags << 32, at, at, at, len, len, align]);
    put(PHDR_AT, &header(1, 5, 0, 4096, 4096));
    put(PHDR_AT + 56, &header(2, 4, DYNAMIC_AT as u64, dynamic.len() as u64, 8));
    put(DYNAMIC_AT, &dynamic);
    put(SYMBOLS_AT, &table);
    put(STRINGS_AT, &strings);
    put(HASH_AT, &hash);
    put(CODE_AT, code);
    page
}

/// The host's own vDSO as it lies in this process: its mappings, and where in them `clock_gettime` is.
pub struct HostVdso {
    /// Address and length of each mapping, vvar first, in address order.
    pub mappings: Vec<(u64, u64)>,
    /// Offset of `__vdso_clock_gettime` from the first mapping's address.
    pub clock_gettime: u64,
}

/// Finds the host's vDSO. `None` where it has none, or where its parts do not lie side by side.
#[must_use]
pub fn find_host() -> Option<HostVdso> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut mappings: Vec<(u64, u64)> = Vec::new();
    let mut image = None;
    for line in maps.lines() {
        let is_vdso = line.ends_with("[vdso]");
        if !is_vdso && !line.contains("[vvar") {
            continue;
        }
        let (begin, end) = line.split_whitespace().next()?.split_once('-')?;
        let (begin, end) = (u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        mappings.push((begin, end - begin));
        if is_vdso {
            image = Some((begin, end - begin));
        }
    }
    let (begin, len) = image?;
    if mappings.windows(2).any(|pair| pair[0].0 + pair[0].1 != pair[1].0) {
        return None;
    }
    // SAFETY: the host maps its vDSO there, readable, for the life of the process.
    let bytes = unsafe { std::slice::from_raw_parts(begin as *const u8, len as usize) };
    let function = find_symbol(bytes, b"__vdso_clock_gettime")?;
    Some(HostVdso { clock_gettime: begin + function - mappings.first()?.0, mappings })
}

/// The value of a dynamic symbol of an ELF image that lies in memory as it is loaded.
fn find_symbol(image: &[u8], name: &[u8]) -> Option<u64> {
    let word = |at: usize| image.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    let half = |at: usize| image.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default()));
    let headers = word(32)? as usize;
    let count = half(56)? as usize & 0xffff;
    let mut dynamic = None;
    for i in 0..count {
        let at = headers + 56 * i;
        if half(at)? == 2 {
            dynamic = Some(word(at + 8)? as usize);
        }
    }
    let (mut strings, mut symbols, mut strings_len) = (None, None, None);
    let mut at = dynamic?;
    loop {
        let (tag, value) = (word(at)?, word(at + 8)? as usize);
        match tag {
            0 => break,
            5 => strings = Some(value),
            6 => symbols = Some(value),
            10 => strings_len = Some(value),
            _ => {}
        }
        at += 16;
    }
    let (strings, symbols) = (strings?, symbols?);
    let names = image.get(strings..strings + strings_len?)?;
    for i in 1..256 {
        let at = symbols + 24 * i;
        let begin = half(at)? as usize;
        let rest = names.get(begin..)?;
        if rest.starts_with(name) && rest.get(name.len()) == Some(&0) {
            return word(at + 8);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_an_elf_file_with_the_five_functions() {
        let image = image();
        for name in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_clock_getres", "__vdso_getcpu"] {
            let value = find_symbol(&image, name.as_bytes()).unwrap_or_default();
            assert!((CODE_AT as u64..4096).contains(&value), "{name} at {value:#x}");
        }
        assert_eq!(find_symbol(&image, b"__vdso_sleep"), None);
    }

    #[test]
    fn the_hosts_own_vdso_is_found() {
        if let Some(host) = find_host() {
            assert!(host.clock_gettime > 0 && host.mappings.len() >= 2);
        }
    }
}
