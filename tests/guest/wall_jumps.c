// timeout: 60
// guest-only: it jumps into the code that stands between a program and its kernel, which only a machine has there
#include "t.h"
#include <setjmp.h>

/* A guest program calls the host's kernel from every system call instruction of the stub, with numbers and arguments of its choice. Nothing
 * may come of it but an answer of the guest's own kernel or the death of the process. What the runner looks for afterwards is a file on the
 * host of the name below, which only the host's kernel could have made. */

#define STUB 0x7fff00000000ul
#define CODE (STUB + 0x10000)
#define CODE_LENGTH 0x2000
#define VDSO (STUB + 0x80000)

static const char path[] = "/tmp/umlaut-wall-was-passed";
static sigjmp_buf back;
static void leave(int number) { siglongjmp(back, number); }

static bool readable(const volatile unsigned char *at) {
    struct sigaction a = {.sa_handler = leave};
    sigaction(SIGSEGV, &a, NULL);
    sigaction(SIGBUS, &a, NULL);
    if (sigsetjmp(back, 1)) return false;
    (void)*at;
    return true;
}

/* Jumps there with these registers; never comes back by itself. The stack is ours, so a `ret` returns to a page of nothing. */
static void jump(uintptr_t to, long number, const long a[6]) {
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    __asm__ volatile("jmp *%0" ::"r"(to), "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "memory");
    __builtin_unreachable();
}

struct call {
    long number, a[6];
};

static int attack(uintptr_t to, const struct call *call) {
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        alarm(2);
        /* The host must find it in memory. */
        (void)*(volatile const char *)path;
        jump(to, call->number, call->a);
    }
    CHECK(child > 0);
    int status;
    for (int i = 0; i < 150; i++) {
        if (waitpid(child, &status, WNOHANG) == child) return status;
        usleep(i < 50 ? 100 : 1000);
    }
    kill(child, SIGKILL);
    return t_wait(child);
}

static void system_calls_of_the_stub_reach_only_our_kernel(void) {
    const struct call calls[] = {
        {SYS_open, {(long)path, O_CREAT | O_RDWR, 0600}},
        {SYS_openat, {AT_FDCWD, (long)path, O_CREAT | O_RDWR, 0600}},
        {SYS_creat, {(long)path, 0600}},
        {SYS_mkdir, {(long)path, 0700}},
        {SYS_socket, {2, 1, 0}},
        {SYS_mmap, {0x300000000000, 4096, 7, 0x32, -1, 0}},
        {SYS_mprotect, {CODE, 4096, 7}},
        {SYS_munmap, {CODE, 4096}},
        {SYS_rt_sigreturn, {0}},
        {SYS_rt_sigaction, {SIGSYS, 0, 0, 8}},
        {SYS_execve, {(long)"/bin/touch", 0, 0}},
        {SYS_clone, {0}},
        {SYS_kill, {1, 0}},
        {SYS_ptrace, {0}},
        {SYS_prctl, {22, 0, 0}},
        {SYS_seccomp, {0, 0, 0}},
        {SYS_exit_group, {0}},
        {0xf01, {SIGSYS, 0, 0, 0, 0, 0xc000003e00000027}},
        {0xf02, {0}},
        {0xf03, {0}},
        {-1, {0}},
        {0x40000000 | SYS_openat, {AT_FDCWD, (long)path, O_CREAT | O_RDWR, 0600}},
    };
    if (!readable((void *)CODE)) {
        /* Not even readable is fine too: then every second address is tried, blindly, with the call that would show. */
        t_say("  the stub's code can't be read: jumping blindly");
        for (uintptr_t at = CODE; at < CODE + CODE_LENGTH; at += 37) attack(at, &calls[1]);
        return;
    }
    int found = 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        for (uintptr_t at = CODE; at + 1 < CODE + CODE_LENGTH; at++) {
            const unsigned char *code = (void *)at;
            /* Any byte: also where the instruction is part of another. */
            if (code[0] != 0x0f || code[1] != 0x05) continue;
            found += i == 0;
            attack(at, &calls[i]);
        }
    /* The same in the host's vDSO, which lies in the stub too. */
    for (uintptr_t page = VDSO; page < VDSO + 0x20000; page += 4096)
        for (uintptr_t at = page; readable((void *)page) && at < page + 4095; at++) {
            const unsigned char *code = (void *)at;
            if (code[0] != 0x0f || (code[1] != 0x05 && code[1] != 0x34)) continue;
            found++;
            for (size_t i = 0; i < 3; i++) attack(at, &calls[i]);
        }
    t_say("  %d system call instructions attacked", found);
    CHECK(found > 0);
    /* Our own kernel is sane still. */
    FAILS(open("/nonexistent/x", O_RDONLY), ENOENT);
}

/* The vDSO and whatever else lies in the stub's range. */
static void nothing_in_the_stubs_range_can_be_changed(void) {
    const uintptr_t pages[] = {CODE, CODE + 0x1000, STUB + 0x20000, STUB + 0x30000, STUB + 0x40000, STUB + 0x50000, STUB + 0x80000, STUB + 0x10000000};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        void *at = (void *)pages[i];
        CHECK(mprotect(at, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0);
        CHECK(mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED);
        CHECK(mremap(at, 4096, 8192, MREMAP_MAYMOVE) == MAP_FAILED);
        /* Linux says EINVAL for what lies above the address space. */
        CHECK(munmap(at, 4096) != 0);
        CHECK(madvise(at, 4096, MADV_DONTNEED) != 0);
        char *ours = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(mremap(ours, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED);
        /* Nor by the kernel on our behalf. */
        int fd = open("/dev/zero", O_RDONLY);
        FAILS(read(fd, at, 64), EFAULT);
        close(fd);
        munmap(ours, 4096);
    }
    struct sigaction a = {.sa_handler = leave};
    sigaction(SIGSEGV, &a, NULL);
    for (size_t i = 0; i < 6; i++)
        if (sigsetjmp(back, 1) == 0) {
            *(volatile long *)pages[i] = -1;
            CHECK(!"a page of the stub could be written");
        }
}

/* The signal slots are writable to the stub; a guest that scribbles over them harms nobody but itself. */
static void scribbling_over_slots_harms_only_oneself(void) {
    pid_t children[8];
    for (int i = 0; i < 8; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            signal(SIGSEGV, SIG_DFL);
            volatile unsigned long *slot = (void *)(STUB + 0x10000000);
            for (unsigned long word = 0; word < 8 * 0x10000 / 8; word++) slot[word] = (i & 1) ? -1ul : CODE + word;
            for (int n = 0; n < 100; n++) {
                syscall(SYS_getppid);
                raise(SIGURG);
            }
            _exit(0);
        }
    }
    for (int i = 0; i < 8; i++) {
        int status;
        for (int n = 0; n < 3000 && waitpid(children[i], &status, WNOHANG) == 0; n++) usleep(1000);
        kill(children[i], SIGKILL);
        waitpid(children[i], &status, 0);
    }
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        if (child == 0) _exit(5);
        t_exits(child, 5);
    }
}

MAIN(CASE(nothing_in_the_stubs_range_can_be_changed), CASE(system_calls_of_the_stub_reach_only_our_kernel),
     CASE(scribbling_over_slots_harms_only_oneself))
