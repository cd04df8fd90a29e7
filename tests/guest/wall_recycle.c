// timeout: 60
// guest-only: it attacks the stub that the next process gets, which only a machine has
#include "t.h"
#include <stddef.h>
#include <asm/prctl.h>
#include <pthread.h>
#include <setjmp.h>
#include <ucontext.h>

/* What stands between a program and its kernel is used again by the next program. A program leaves traps in it, ends, and a later one must not
 * fall in: run at an address that the dead one chose, find its words, or have its memory written by its threads. */

#define STUB 0x7fff00000000ul
#define CODE (STUB + 0x10000)
#define CODE_LENGTH 0x2000
#define SLOTS (STUB + 0x10000000)
#define SLOT 0x10000ul
#define OWNED 66

/* Where the dead program wants the next one to go on. */
static void owned(void) { syscall(SYS_exit_group, OWNED); }

static sigjmp_buf back;
static void leave(int number) { siglongjmp(back, number); }

/* Whether a page of the stub's range is there. */
static bool is_there(unsigned long page) {
    signal(SIGSEGV, leave);
    if (sigsetjmp(back, 1)) return false;
    (void)*(volatile char *)page;
    return true;
}

/* Where the host puts this thread's frames: found by a mark in a register, which every frame keeps. */
static unsigned long find_home(void) {
    unsigned long mark = 0x756d6c617574c0deul + getpid();
    /* kill(0, 1000) needs all registers; no other register may hold the mark. */
    __asm__ volatile("movl $62, %%eax; xorl %%edi, %%edi; movl $1000, %%esi; movq %0, %%r15; xorq %0, %0; syscall; movq %%r15, %0"
                     : "+r"(mark)
                     :
                     : "rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r11", "r15", "memory");
    for (unsigned long page = SLOTS; page < SLOTS + 4 * SLOT; page += 4096)
        for (unsigned long *at = (void *)page; is_there(page) && at < (unsigned long *)(page + 4096); at++)
            if (*(volatile unsigned long *)at == mark) return (unsigned long)at - offsetof(ucontext_t, uc_mcontext.gregs[REG_R15]);
    return 0;
}

/* A frame that goes on in owned(), with a stack that a copy of this process has too. */
static void forge_frame(unsigned long at, unsigned long fs_base) {
    ucontext_t *uc = (void *)at;
    memset(uc, 0, sizeof *uc);
    uc->uc_stack.ss_flags = SS_DISABLE;
    uc->uc_mcontext.gregs[REG_RIP] = (long)owned;
    uc->uc_mcontext.gregs[REG_RSP] = ((long)&uc & ~15l) - 0x1000 - 8;
    uc->uc_mcontext.gregs[REG_EFL] = 0x202;
    uc->uc_mcontext.gregs[REG_CSGSFS] = 0x002b000000000033;
    *(unsigned long *)((at & -SLOT) + SLOT - 0x100) = fs_base;
}

struct registers {
    unsigned long rax, rdi, rsi, rdx, r10, r8, r9, rbx;
};

static void jump(unsigned long to, const struct registers *r) {
    register long r10 __asm__("r10") = r->r10;
    register long r8 __asm__("r8") = r->r8;
    register long r9 __asm__("r9") = r->r9;
    __asm__ volatile("jmp *%0" ::"r"(to), "a"(r->rax), "D"(r->rdi), "S"(r->rsi), "d"(r->rdx), "r"(r10), "r"(r8), "r"(r9), "b"(r->rbx)
                     : "memory");
    __builtin_unreachable();
}

/* Ends by a forged notification that says "exit_group", while registers point at a frame of ours. */
static void leave_a_trap(unsigned long site, int variant) {
    unsigned long fs_base = 0, home = find_home();
    CHECK(home != 0);
    syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base);
    /* In the same slot, as far from the true frame as there is memory; or in one that nobody uses. */
    unsigned long slot = home & -SLOT, evil = home & -4096ul;
    while (evil > slot && is_there(evil - 4096)) evil -= 4096;
    if (variant & 1) evil = is_there(SLOTS + 1000 * SLOT + 0x8000) ? SLOTS + 1000 * SLOT + 0x8000 : slot + SLOT - 0x1000;
    forge_frame(evil, fs_base);
    const unsigned long call = 0xc000003eul << 32 | SYS_exit_group;
    const unsigned long report[6] = {SIGSYS, home, fs_base, 0, 0x401000, call};
    struct registers r = {0xf01, SIGSYS, home, fs_base, 0, 0x401000, call, evil};
    if (variant & 2) {
        /* The other hand-over reports over a descriptor, and what it reports lies in the slot. */
        unsigned long words = slot + SLOT - 0x100;
        memcpy((void *)(words + 0x28), report, sizeof report);
        r = (struct registers){SYS_sendto, *(volatile unsigned *)(words + 0x10), words + 0x20, 56, 0x4000, 0, evil, evil};
    }
    signal(SIGSEGV, SIG_DFL);
    alarm(1);
    jump(site, &r);
}

static void no_frame_of_a_dead_program_is_ever_used(void) {
    int sites = 0;
    for (unsigned long site = CODE; site + 1 < CODE + CODE_LENGTH; site++) {
        const volatile unsigned char *code = (void *)site;
        if (code[0] != 0x0f || code[1] != 0x05) continue;
        sites++;
        for (int variant = 0; variant < 4; variant++) {
            pid_t child = fork();
            if (child == 0) leave_a_trap(site, variant);
            t_wait(child);
            for (int i = 0; i < 6; i++) {
                child = fork();
                if (child == 0) _exit(5);
                t_exits(child, 5);
            }
        }
    }
    CHECK(sites > 0);
}

/* Threads of a process that ends go on writing into memory that now belongs to others. */
static volatile long *poisoned;
static void *poison(void *unused) {
    for (long i = 0;; i++) poisoned[i % 8192] = 0x6c6976656c697665;
    return unused;
}

static void threads_of_a_dead_process_write_nowhere(void) {
    const long length = 64 << 10;
    for (int round = 0; round < t_scaled(30); round++) {
        pid_t child = fork();
        if (child == 0) {
            poisoned = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            pthread_t thread;
            for (int i = 0; i < 2; i++) pthread_create(&thread, NULL, poison, NULL);
            t_sleep_ms(3);
            if (round & 1) _exit(0);
            kill(getpid(), SIGKILL);
        }
        t_wait(child);
        for (int i = 0; i < 4; i++) {
            long *fresh = mmap(NULL, 4 * length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(fresh != MAP_FAILED);
            for (long n = 0; n < 4 * length / 8; n++) CHECK(fresh[n] == 0);
            for (volatile int k = 0; k < 20000; k++) {
            }
            for (long n = 0; n < 4 * length / 8; n++) CHECK(((volatile long *)fresh)[n] == 0);
            munmap(fresh, 4 * length);
        }
    }
}

/* A new process finds in its slots only what the host and its kernel put there: no register of an earlier one. */
/* Compared by halves, so that the searcher's own registers never hold it. */
#define SECRET_LOW 0x5ec2e75eu
#define SECRET_HIGH 0x2e75ec2eu
static void registers_of_a_dead_process_are_not_found(void) {
    for (int round = 0; round < 8; round++) {
        pid_t child = fork();
        if (child == 0) {
            volatile unsigned long half = SECRET_HIGH;
            unsigned long high = half;
            __asm__ volatile("movq %0, %%r12; movq %0, %%xmm7; movl $62, %%eax; movl $0, %%edi; movl $1000, %%esi; syscall; movl $231, %%eax; movl $0, %%edi; syscall"
                             ::"r"(high << 32 | SECRET_LOW)
                             : "rax", "rcx", "rdi", "rsi", "r11", "r12", "memory");
        }
        t_exits(child, 0);
        child = fork();
        if (child == 0) {
            int found = 0;
            for (unsigned long page = SLOTS; page < SLOTS + 3 * SLOT; page += 4096)
                for (volatile unsigned *at = (void *)page; is_there(page) && at < (volatile unsigned *)(page + 4096); at += 2)
                    found += at[0] == SECRET_LOW && at[1] == SECRET_HIGH;
            _exit(found ? 1 : 0);
        }
        t_exits(child, 0);
    }
}

MAIN(CASE(no_frame_of_a_dead_program_is_ever_used), CASE(threads_of_a_dead_process_write_nowhere),
     CASE(registers_of_a_dead_process_are_not_found))
