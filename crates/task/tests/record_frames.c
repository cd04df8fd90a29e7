/* Dumps the frame that this kernel builds for a signal handler: one line per case,
 * "case interrupted-sp frame-address xstate-address xstate-length alt-sp alt-size flags frame-hex xstate-hex". */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <ucontext.h>
#include <sys/syscall.h>
#include <stdint.h>

struct ksigaction { void *handler; unsigned long flags; void *restorer; unsigned long mask; };
static unsigned char frame[440], xstate[16384];
static unsigned long frame_addr, xstate_addr, xstate_len;

static void handler(int sig, siginfo_t *info, void *uc)
{
    frame_addr = (unsigned long)uc - 8;
    memcpy(frame, (void *)frame_addr, sizeof frame);
    ucontext_t *c = uc;
    xstate_addr = (unsigned long)c->uc_mcontext.fpregs;
    uint32_t *sw = (uint32_t *)(xstate_addr + 464);
    xstate_len = sw[0] == 0x46505853 ? sw[1] : 512;
    memcpy(xstate, (void *)xstate_addr, xstate_len);
}
void restorer(void);
__asm__("restorer: mov $15, %eax\n syscall\n");

static void dump(const char *name, unsigned long flags, stack_t *alt)
{
    unsigned long i, *words = (unsigned long *)(frame + 8 + 40);
    printf("%s %#lx %#lx %#lx %lu %#lx %lu %#lx %#lx %#lx ", name, words[15], frame_addr, xstate_addr, xstate_len,
           (unsigned long)alt->ss_sp, (unsigned long)alt->ss_size, flags, (unsigned long)handler, (unsigned long)restorer);
    for (i = 0; i < sizeof frame; i++) printf("%02x", frame[i]);
    printf(" ");
    for (i = 0; i < 576; i++) printf("%02x", xstate[i]);
    printf("\n");
}

static void set(int sig, unsigned long flags)
{
    struct ksigaction a = { handler, flags, restorer, 0 };
    if (syscall(SYS_rt_sigaction, sig, &a, 0, 8)) abort();
}

int main(void)
{
    stack_t none = {0}, alt = { .ss_sp = malloc(65536), .ss_size = 65536 };
    union sigval v = { .sival_int = 42 };
    none.ss_flags = SS_DISABLE;
    set(SIGUSR1, SA_SIGINFO | 0x04000000);
    kill(getpid(), SIGUSR1);
    dump("plain", SA_SIGINFO | 0x04000000, &none);
    sigaltstack(&alt, 0);
    set(SIGRTMIN, SA_SIGINFO | SA_ONSTACK | 0x04000000);
    sigset_t m; sigemptyset(&m); sigaddset(&m, SIGUSR2); sigprocmask(SIG_BLOCK, &m, 0);
    sigqueue(getpid(), SIGRTMIN, v);
    dump("alternate", SA_SIGINFO | SA_ONSTACK | 0x04000000, &alt);
    set(SIGSEGV, SA_SIGINFO | SA_ONSTACK | SA_RESETHAND | 0x04000000);
    return 0;
}
