//! The only unsafe code and the only host system calls: stubs, files, terminals, timers.
