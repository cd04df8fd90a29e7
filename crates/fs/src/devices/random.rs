//! `/dev/random` and `/dev/urandom`, random(4). Bytes come from the host; nothing that a guest writes makes them better or worse.

use abi::{Errno, SysResult};
use std::sync::Arc;
use vfs::{Capability, FileOps, IoctlCaller, OpenFile, Sink, Source};

/// Fills a buffer with random bytes; never blocks, never fails.
pub type Entropy = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Bytes drawn at a time.
const PIECE: usize = 256;
/// Bits that the pool is said to hold: full, always.
const ENTROPY_BITS: i32 = 256;

const RNDGETENTCNT: u32 = 0x8004_5200;
const RNDADDTOENTCNT: u32 = 0x4004_5201;
const RNDADDENTROPY: u32 = 0x4008_5203;
const RNDZAPENTCNT: u32 = 0x5204;
const RNDCLEARPOOL: u32 = 0x5206;
const RNDRESEEDCRNG: u32 = 0x5207;

pub struct Random {
    pub entropy: Entropy,
}

impl FileOps for Random {
    fn read(&self, _: &OpenFile, _: &mut u64, sink: &mut dyn Sink) -> SysResult<usize> {
        let mut done = 0;
        let mut buffer = [0u8; PIECE];
        while sink.room() > 0 {
            let piece = buffer.get_mut(..sink.room().min(PIECE)).unwrap_or_default();
            (self.entropy)(piece);
            match sink.put(piece) {
                Ok(n) => {
                    done += n;
                    if n < piece.len() {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => break,
            }
        }
        Ok(done)
    }
    fn write(&self, _: &OpenFile, _: &mut u64, source: &mut dyn Source) -> SysResult<usize> {
        Ok(source.left())
    }
    fn ioctl(&self, _: &OpenFile, caller: &IoctlCaller<'_>, command: u32, argument: u64) -> SysResult<i64> {
        match command {
            RNDGETENTCNT => caller.memory.write_all(argument, &ENTROPY_BITS.to_ne_bytes())?,
            RNDADDTOENTCNT | RNDADDENTROPY | RNDZAPENTCNT | RNDCLEARPOOL | RNDRESEEDCRNG => {
                caller.credentials.require(Capability::SYS_ADMIN)?;
            }
            _ => return Err(Errno::ENOTTY.into()),
        }
        Ok(0)
    }
}
