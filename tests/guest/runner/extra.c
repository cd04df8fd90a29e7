/* The figures that the yardstick does not have: "extra [-t MS] [-r REPEATS] BARE [NAME...]", one line "name value unit" each, the least of the repeats.
 *
 * bare_fork_exec    fork, exec of a program without libc (BARE), wait
 * syscall_beside_2  a system call while two busy processes want the same processor, time that passes for each call
 * touch_64k         one page touched in each 64 KiB of anonymous memory
 * random_cow        one page of 16 MiB shared by fork stored to, in no order
 * live_children     fork of a child that stays, 100 of them
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double slice_ns = 60e6;
static int repeats = 5;
static const char *bare;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void die(const char *what) {
    printf("%s FAIL -\n", what);
    fflush(stdout);
    _exit(1);
}

static double bare_fork_exec(void) {
    char *arguments[] = {(char *)bare, NULL};
    char *environment[] = {NULL};
    long count = 0;
    double begun = now();
    do {
        int status;
        pid_t child = fork();
        if (child == 0) {
            execve(bare, arguments, environment);
            _exit(9);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) die("bare_fork_exec");
        count++;
    } while (now() - begun < slice_ns);
    return (now() - begun) / count / 1e3;
}

static double syscall_beside_2(void) {
    pid_t spinners[2];
    cpu_set_t before, one;
    /* All three on the last processor that we may use. */
    sched_getaffinity(0, sizeof before, &before);
    CPU_ZERO(&one);
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && CPU_COUNT(&one) == 0; cpu--)
        if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    for (int i = 0; i < 2; i++) {
        spinners[i] = fork();
        if (spinners[i] < 0) die("syscall_beside_2");
        if (spinners[i] == 0)
            for (;;) __asm__ volatile("pause");
    }
    usleep(20000);
    long count = 0;
    double begun = now();
    /* Long enough for many turns of all three. */
    do {
        for (int i = 0; i < 100; i++) syscall(SYS_getpgid, 0);
        count += 100;
    } while (now() - begun < 5 * slice_ns);
    double each = (now() - begun) / count / 1e3;
    for (int i = 0; i < 2; i++) {
        kill(spinners[i], SIGKILL);
        waitpid(spinners[i], NULL, 0);
    }
    sched_setaffinity(0, sizeof before, &before);
    return each;
}

static double touch_64k(void) {
    const long count = 10000, step = 65536;
    char *memory = mmap(NULL, count * step, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) die("touch_64k");
    madvise(memory, count * step, MADV_NOHUGEPAGE);
    double begun = now();
    for (long i = 0; i < count; i++) *(volatile char *)(memory + i * step) = 1;
    double each = (now() - begun) / count / 1e3;
    munmap(memory, count * step);
    return each;
}

static double random_cow(void) {
    const long pages = 4096, breaks = 400;
    double each = 0;
    char *memory = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("random_cow");
    madvise(memory, pages * 4096, MADV_NOHUGEPAGE);
    memset(memory, 1, pages * 4096);
    int result[2];
    if (pipe(result) != 0) die("random_cow");
    pid_t child = fork();
    if (child < 0) die("random_cow");
    if (child == 0) {
        unsigned long at = 88172645463325252UL;
        double begun = now();
        for (long i = 0; i < breaks; i++) {
            at ^= at << 13, at ^= at >> 7, at ^= at << 17;
            *(volatile char *)(memory + at % pages * 4096) = 2;
        }
        each = (now() - begun) / breaks / 1e3;
        if (write(result[1], &each, sizeof each) != sizeof each) _exit(1);
        _exit(0);
    }
    if (read(result[0], &each, sizeof each) != sizeof each) die("random_cow");
    waitpid(child, NULL, 0);
    close(result[0]);
    close(result[1]);
    munmap(memory, pages * 4096);
    return each;
}

static double live_children(void) {
    enum { COUNT = 100 };
    pid_t children[COUNT];
    double begun = now();
    for (int i = 0; i < COUNT; i++) {
        children[i] = fork();
        if (children[i] < 0) die("live_children");
        if (children[i] == 0)
            for (;;) pause();
    }
    double each = (now() - begun) / COUNT / 1e3;
    for (int i = 0; i < COUNT; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    return each;
}

static const struct {
    const char *name;
    double (*run)(void);
} figures[] = {
    {"bare_fork_exec", bare_fork_exec}, {"syscall_beside_2", syscall_beside_2}, {"touch_64k", touch_64k},
    {"random_cow", random_cow},         {"live_children", live_children},
};

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "t:r:")) != -1) {
        if (option == 't') slice_ns = atof(optarg) * 1e6;
        else if (option == 'r') repeats = atoi(optarg);
        else return 2;
    }
    if (optind >= argc || repeats < 1) return 2;
    bare = argv[optind++];
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        int wanted = optind == argc;
        for (int j = optind; j < argc; j++) wanted |= strcmp(argv[j], figures[i].name) == 0;
        if (!wanted) continue;
        double least = 0;
        for (int r = 0; r < repeats; r++) {
            double one = figures[i].run();
            if (r == 0 || one < least) least = one;
        }
        printf("%s %.3f us\n", figures[i].name, least);
        fflush(stdout);
    }
    return 0;
}
