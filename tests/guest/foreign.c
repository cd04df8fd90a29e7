// guest-only: the host has 32-bit calls or x32 or vsyscalls, the machine answers as a Linux without them
#include "t.h"
#include <setjmp.h>

/* Ways into a kernel that ours doesn't have: int 0x80 faults, x32 numbers are unknown, the vsyscall page isn't there. */

static sigjmp_buf back;
static siginfo_t seen;
static void leave(int number, siginfo_t *info, void *context) {
    seen = *info;
    siglongjmp(back, number);
}
static void catch(void) {
    struct sigaction a = {.sa_sigaction = leave, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &a, NULL);
    sigaction(SIGILL, &a, NULL);
}

static void int_0x80_faults(void) {
    catch();
    for (int i = 0; i < 20; i++) {
        int number = sigsetjmp(back, 1);
        if (number == 0) {
            /* 32-bit getpid, exit, mmap2: none may happen. */
            __asm__ volatile("int $0x80" ::"a"(i % 3 == 0 ? 20 : i % 3 == 1 ? 1 : 192), "b"(0) : "memory");
            CHECK(!"it came back");
        }
        EQUAL(number, SIGSEGV);
    }
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        __asm__ volatile("int $0x80" ::"a"(1), "b"(7));
        _exit(0);
    }
    t_dies(child, SIGSEGV);
}

static void x32_numbers_are_unknown(void) {
    for (long number = 0; number < 600; number++) FAILS(syscall(0x40000000 | number, 0, 0, 0, 0, 0, 0), ENOSYS);
}

static void the_vsyscall_page_is_not_there(void) {
    catch();
    for (uintptr_t at = 0xffffffffff600000; at <= 0xffffffffff600800; at += 0x400) {
        int number = sigsetjmp(back, 1);
        if (number == 0) {
            ((long (*)(void *))at)(NULL);
            CHECK(!"it came back");
        }
        EQUAL(number, SIGSEGV);
    }
}

static void sysenter_faults(void) {
    catch();
    int number = sigsetjmp(back, 1);
    if (number == 0) {
        __asm__ volatile("xorl %%ebp, %%ebp; sysenter" ::"a"(20) : "memory", "rcx", "rdx");
        CHECK(!"it came back");
    }
    CHECK(number == SIGSEGV || number == SIGILL);
}

MAIN(CASE(int_0x80_faults), CASE(x32_numbers_are_unknown), CASE(the_vsyscall_page_is_not_there), CASE(sysenter_faults))
