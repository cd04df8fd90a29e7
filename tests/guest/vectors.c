// timeout: 40
#include "t.h"
#include <cpuid.h>
#include <pthread.h>
#include <sys/time.h>

/* Vector registers keep what a program put there, across signals, system calls and preemption. */

static int level; /* 0 SSE, 1 AVX, 2 AVX-512 */

static void find_level(void) {
    __builtin_cpu_init();
    level = __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
}

struct vectors {
    _Alignas(64) unsigned char zmm[32][64];
    uint64_t k[8];
};

static void fill(struct vectors *v, unsigned seed) {
    unsigned char *bytes = (unsigned char *)v;
    for (size_t i = 0; i < sizeof *v; i++) bytes[i] = (seed = seed * 1103515245 + 12345) >> 16;
}

/* Loads all of them, runs `spin` rounds of nothing (and a system call if asked), and stores them. */
#define BODY(LOAD, STORE)                                                                                                          \
    __asm__ volatile(LOAD "1: pause; decq %%rcx; jnz 1b; testq %%rdx, %%rdx; jz 2f; movl $39, %%eax; syscall; 2:" STORE            \
                     : "+c"(rounds)                                                                                                \
                     : "S"(in), "D"(out), "d"(call)                                                                                \
                     : "rax", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",     \
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
#define EACH16(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11) OP(12) OP(13) OP(14) OP(15)
#define EACH_HIGH(OP) OP(16) OP(17) OP(18) OP(19) OP(20) OP(21) OP(22) OP(23) OP(24) OP(25) OP(26) OP(27) OP(28) OP(29) OP(30) OP(31)
#define SSE_LOAD(n) "movups " #n "*64(%%rsi), %%xmm" #n ";"
#define SSE_STORE(n) "movups %%xmm" #n ", " #n "*64(%%rdi);"
#define AVX_LOAD(n) "vmovups " #n "*64(%%rsi), %%ymm" #n ";"
#define AVX_STORE(n) "vmovups %%ymm" #n ", " #n "*64(%%rdi);"
#define WIDE_LOAD(n) "vmovups " #n "*64(%%rsi), %%zmm" #n ";"
#define WIDE_STORE(n) "vmovups %%zmm" #n ", " #n "*64(%%rdi);"
#define MASK_LOAD(n) "kmovw 2048+" #n "*8(%%rsi), %%k" #n ";"
#define MASK_STORE(n) "kmovw %%k" #n ", 2048+" #n "*8(%%rdi);"
#define MASKS(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7)

static void carry_sse(const void *in, void *out, long rounds, long call) { BODY(EACH16(SSE_LOAD), EACH16(SSE_STORE)); }
__attribute__((target("avx"))) static void carry_avx(const void *in, void *out, long rounds, long call) {
    BODY(EACH16(AVX_LOAD), EACH16(AVX_STORE));
}
__attribute__((target("avx512f"))) static void carry_wide(const void *in, void *out, long rounds, long call) {
    BODY(EACH16(WIDE_LOAD) EACH_HIGH(WIDE_LOAD) MASKS(MASK_LOAD), EACH16(WIDE_STORE) EACH_HIGH(WIDE_STORE) MASKS(MASK_STORE));
}

static void carry(unsigned seed, long rounds, long call) {
    struct vectors in, out;
    fill(&in, seed);
    memset(&out, 0, sizeof out);
    (level == 2 ? carry_wide : level == 1 ? carry_avx : carry_sse)(&in, &out, rounds, call);
    int width = 16 << level, registers = level == 2 ? 32 : 16;
    for (int r = 0; r < registers; r++)
        if (memcmp(in.zmm[r], out.zmm[r], width)) {
            t_say("  register %d differs, level %d", r, level);
            _exit(1);
        }
    if (level == 2)
        for (int k = 0; k < 8; k++) EQUAL((uint16_t)out.k[k], (uint16_t)in.k[k]);
}

static volatile sig_atomic_t hits;
static void trample(int number) {
    unsigned save = hits;
    /* The handler uses the registers for something else, as any libc does. */
    struct vectors in, out;
    fill(&in, save);
    (level == 2 ? carry_wide : level == 1 ? carry_avx : carry_sse)(&in, &out, 1, 0);
    hits = save + 1;
}

static void tick_every_us(long us) {
    signal(SIGALRM, trample);
    struct itimerval timer = {{0, us}, {0, us}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void vectors_survive_system_calls(void) {
    for (unsigned i = 0; i < 300; i++) carry(i, 10, 1);
}

static void vectors_survive_handlers(void) {
    tick_every_us(1000);
    long wanted = t_scaled(100);
    for (unsigned i = 0; hits < wanted; i++) carry(i, 20000, i & 1);
}

static void vectors_survive_preemption(void) {
    pid_t children[6];
    for (int c = 0; c < 6; c++) {
        children[c] = fork();
        if (children[c] == 0) {
            int64_t until = t_now_ns() + 400000000;
            for (unsigned i = c * 1000; t_now_ns() < until; i++) carry(i, 30000, 0);
            _exit(0);
        }
    }
    for (int c = 0; c < 6; c++) t_exits(children[c], 0);
}

static void *thread(void *seed) {
    int64_t until = t_now_ns() + 400000000;
    for (unsigned i = (uintptr_t)seed * 7919; t_now_ns() < until; i++) carry(i, 5000, i & 1);
    return NULL;
}

static void vectors_survive_between_threads(void) {
    pthread_t threads[6];
    tick_every_us(5000);
    for (uintptr_t i = 0; i < 6; i++) CHECK(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
    for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
}

static void a_forked_child_starts_with_them(void) {
    /* fork by hand between load and store: the child must store what the parent loaded. */
    _Alignas(64) unsigned char in[16], out[16];
    for (int i = 0; i < 16; i++) in[i] = i * 3 + 1;
    long result;
    __asm__ volatile("movups (%2), %%xmm7; movl $57, %%eax; syscall; movups %%xmm7, (%3)"
                     : "=&a"(result)
                     : "0"(57), "r"(in), "r"(out)
                     : "rcx", "r11", "memory", "xmm7");
    if (result == 0) _exit(memcmp(in, out, 16) != 0);
    CHECK(memcmp(in, out, 16) == 0);
    t_exits(result, 0);
}

static void rounding_modes_and_x87_survive(void) {
    signal(SIGUSR1, trample);
    unsigned csr, wanted = 0x7f80, now;
    __asm__ volatile("stmxcsr %0" : "=m"(csr));
    __asm__ volatile("ldmxcsr %0" ::"m"(wanted));
    unsigned short control = 0x0f7f, found;
    __asm__ volatile("fldcw %0" ::"m"(control));
    double value = 1.25, back;
    __asm__ volatile("fldl %0" ::"m"(value));
    kill(getpid(), SIGUSR1);
    __asm__ volatile("fstpl %0" : "=m"(back));
    __asm__ volatile("stmxcsr %0" : "=m"(now));
    __asm__ volatile("fnstcw %0" : "=m"(found));
    __asm__ volatile("ldmxcsr %0" ::"m"(csr));
    EQUAL(now, wanted);
    EQUAL(found, control);
    CHECK(back == value);
    EQUAL(hits, 1);
}

int main(void) {
    find_level();
    static const struct t_case cases[] = {CASE(vectors_survive_system_calls), CASE(vectors_survive_handlers), CASE(vectors_survive_preemption),
                                          CASE(vectors_survive_between_threads), CASE(a_forked_child_starts_with_them),
                                          CASE(rounding_modes_and_x87_survive)};
    return t_main(cases, sizeof cases / sizeof cases[0]);
}
