//! What a new program finds on its stack: arguments, environment, auxiliary vector; the System V ABI for x86-64, "Process Initialization".

/// The auxiliary vector's keys that we fill in, getauxval(3).
pub mod key {
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
}

/// A stack's contents, to be written ending at `top`.
pub struct Initial {
    /// Where the stack pointer points: at the argument count.
    pub sp: u64,
    pub bytes: Vec<u8>,
    /// Addresses of the argument strings and of the environment strings, for `/proc/PID/cmdline` and `environ`.
    pub arg: std::ops::Range<u64>,
    pub env: std::ops::Range<u64>,
}

/// Lays a stack out below `top`. `aux` comes without `AT_EXECFN`, `AT_RANDOM`, `AT_PLATFORM` and the end, which are added.
pub fn lay_out(top: u64, argv: &[Vec<u8>], envp: &[Vec<u8>], program: &[u8], random: [u8; 16], aux: &[(u64, u64)]) -> Initial {
    // From the top down: a null word, the program's path, environment, arguments; then what only the auxiliary vector points to.
    let mut strings: Vec<u8> = Vec::new();
    let mut place = |string: &[u8]| {
        let at = strings.len();
        strings.extend_from_slice(string);
        strings.push(0);
        at
    };
    let arg_at: Vec<usize> = argv.iter().map(|s| place(s)).collect();
    let env_at: Vec<usize> = envp.iter().map(|s| place(s)).collect();
    let program_at = place(program);
    let arg_end = env_at.first().copied().unwrap_or(program_at);
    let strings_base = (top - 8 - strings.len() as u64) & !15;
    let platform_base = strings_base - 16;
    let random_base = platform_base - 16;

    let mut words: Vec<u64> = vec![argv.len() as u64];
    words.extend(arg_at.iter().map(|at| strings_base + *at as u64));
    words.push(0);
    words.extend(env_at.iter().map(|at| strings_base + *at as u64));
    words.push(0);
    for (key, value) in aux {
        words.extend([*key, *value]);
    }
    let more =
        [(key::RANDOM, random_base), (key::EXECFN, strings_base + program_at as u64), (key::PLATFORM, platform_base), (key::NULL, 0)];
    for (key, value) in more {
        words.extend([key, value]);
    }
    let sp = (random_base - 8 * words.len() as u64) & !15;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize((random_base - sp) as usize, 0);
    bytes.extend(random);
    bytes.extend(b"x86_64\0\0\0\0\0\0\0\0\0\0");
    bytes.extend(&strings);
    let at = |offset: usize| strings_base + offset as u64;
    Initial { sp, bytes, arg: strings_base..at(arg_end), env: at(arg_end)..at(program_at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_its_arguments_where_the_abi_says() {
        let (argv, envp) = (vec![b"prog".to_vec(), b"-x".to_vec()], vec![b"A=1".to_vec()]);
        let initial = lay_out(0x7000_0000, &argv, &envp, b"/bin/prog", [9; 16], &[(key::PAGESZ, 4096)]);
        assert_eq!(initial.sp % 16, 0);
        let word = |at: u64| {
            let at = (at - initial.sp) as usize;
            u64::from_le_bytes(initial.bytes[at..at + 8].try_into().unwrap())
        };
        let string = |addr: u64| {
            let at = (addr - initial.sp) as usize;
            initial.bytes[at..].split(|b| *b == 0).next().unwrap().to_vec()
        };
        assert_eq!(word(initial.sp), 2);
        assert_eq!(string(word(initial.sp + 8)), b"prog");
        assert_eq!(string(word(initial.sp + 16)), b"-x");
        assert_eq!(word(initial.sp + 24), 0);
        assert_eq!(string(word(initial.sp + 32)), b"A=1");
        assert_eq!(word(initial.sp + 40), 0);
        assert_eq!((word(initial.sp + 48), word(initial.sp + 56)), (key::PAGESZ, 4096));
        assert_eq!(word(initial.sp + 64), key::RANDOM);
        assert_eq!(string(word(initial.sp + 88)), b"/bin/prog");
        assert_eq!(initial.arg.end - initial.arg.start, 8);
        assert!(initial.sp + initial.bytes.len() as u64 <= 0x7000_0000);
    }
}
