// timeout: 90
#include "t.h"
#include <pthread.h>
#include <sched.h>

/* Threads against the calls that change their memory: no byte of another mapping may ever be seen, and nothing may hang. */

#define PAGE 4096l
#define RW (PROT_READ | PROT_WRITE)
static volatile int stop;

static void *map(long pages) {
    void *at = mmap(NULL, pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static void *fresh_pages(void *id) {
    long rounds = t_scaled(3000);
    for (long i = 0; i < rounds; i++) {
        volatile char *at = map(2);
        CHECK(at[0] == 0 && at[PAGE] == 0 && at[2 * PAGE - 1] == 0);
        at[0] = i;
        at[PAGE] = i + (long)id;
        for (volatile int k = 0; k < 100; k++) {
        }
        CHECK(at[0] == (char)i && at[PAGE] == (char)(i + (long)id));
        CHECK(munmap((void *)at, 2 * PAGE) == 0);
    }
    return NULL;
}

static void with_threads(int count, void *(*run)(void *)) {
    pthread_t threads[16];
    for (long i = 0; i < count; i++) CHECK(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static void new_mappings_are_always_zero(void) { with_threads(4, fresh_pages); }

static void *large_pages(void *id) {
    for (int i = 0; i < 150; i++) {
        unsigned char *at = map(16);
        for (long n = 0; n < 16 * PAGE; n += 512) CHECK(at[n] == 0);
        memset(at, i + (long)id, 16 * PAGE);
        for (long n = 0; n < 16 * PAGE; n += 997) CHECK(at[n] == (unsigned char)(i + (long)id));
        CHECK(munmap(at, 16 * PAGE) == 0);
    }
    return NULL;
}

static void large_mappings_keep_their_content(void) { with_threads(4, large_pages); }

/* Readers look at a page while it is replaced: they see zero or what was put there since, never what lay there before. */
static volatile long *replaced;
static volatile long generation;

static void *reader(void *unused) {
    while (!stop) {
        long before = generation, seen = *replaced;
        long after = generation;
        if (seen != 0 && (seen < before - 1 || seen > after + 1)) {
            t_say("  saw %ld between %ld and %ld", seen, before, after);
            _exit(1);
        }
    }
    return NULL;
}

static void a_replaced_page_is_never_seen_again(void) {
    pthread_t readers[3];
    replaced = map(1);
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&readers[i], NULL, reader, NULL) == 0);
    long rounds = t_scaled(2000);
    for (long i = 1; i <= rounds; i++) {
        CHECK(mmap((void *)replaced, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == replaced);
        generation = i;
        *replaced = i;
        CHECK(*replaced == i);
    }
    stop = 1;
    for (int i = 0; i < 3; i++) pthread_join(readers[i], NULL);
}

/* What is written while a page is taken away and given back is either there or gone, never half. */
static volatile unsigned long *protected_page;
static volatile sig_atomic_t faults_seen;
static void mend(int number, siginfo_t *info, void *context) { faults_seen++; }

static void *writer(void *unused) {
    for (unsigned long i = 1; !stop; i++) {
        protected_page[0] = i;
        unsigned long found = protected_page[0];
        if (found != i) {
            t_say("  wrote %lu, found %lu", i, found);
            _exit(1);
        }
    }
    return NULL;
}

static void protection_changes_lose_no_write(void) {
    struct sigaction a = {.sa_sigaction = mend, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &a, NULL);
    protected_page = map(1);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, writer, NULL) == 0);
    long rounds = t_scaled(1500);
    for (long i = 0; i < rounds; i++) {
        CHECK(mprotect((void *)protected_page, PAGE, PROT_READ) == 0);
        CHECK(mprotect((void *)protected_page, PAGE, RW) == 0);
    }
    stop = 1;
    pthread_join(thread, NULL);
}

/* A write after mprotect to read-only has returned must fault, whatever the other threads' processors remember. */
static volatile int phase;
static void *late_writer(void *at) {
    while (!stop) {
        if (phase == 1) {
            ((volatile char *)at)[0] = 1;
            t_say("  a write to a read-only page went through");
            _exit(1);
        }
    }
    return NULL;
}

static void leave_writer(int number) { _exit(0); }

static void a_protection_holds_for_all_threads_once_it_is_set(void) {
    for (int round = 0; round < 30; round++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, leave_writer);
            char *at = map(1);
            at[0] = 1;
            pthread_t threads[2];
            for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, late_writer, at);
            usleep(500);
            CHECK(mprotect(at, PAGE, PROT_READ) == 0);
            phase = 1;
            for (;;) pause();
        }
        t_exits(child, 0);
    }
}

/* Fork while other threads write: the child's copy doesn't change under it. */
static long *shared_page;
static void *counter(void *unused) {
    while (!stop)
        for (int i = 0; i < 8; i++) __atomic_fetch_add(&shared_page[i * 512], 1, __ATOMIC_RELAXED);
    return NULL;
}

static void a_child_has_its_own_copy_while_threads_write(void) {
    shared_page = map(8);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, counter, NULL) == 0);
    long rounds = t_scaled(100);
    for (long round = 0; round < rounds; round++) {
        pid_t child = fork();
        if (child == 0) {
            long first[8];
            for (int i = 0; i < 8; i++) first[i] = ((volatile long *)shared_page)[i * 512];
            for (volatile int k = 0; k < 30000; k++) {
            }
            for (int i = 0; i < 8; i++)
                if (((volatile long *)shared_page)[i * 512] != first[i]) _exit(1);
            _exit(0);
        }
        t_exits(child, 0);
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK(shared_page[0] > 0);
}

static void *forker(void *unused) {
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        if (child == 0) _exit(4);
        t_exits(child, 4);
    }
    return NULL;
}

static void *maps_and_forks(void *id) { return (long)id & 1 ? forker(NULL) : fresh_pages(id); }
static void maps_and_forks_at_once(void) { with_threads(4, maps_and_forks); }

static void *forget(void *at) {
    while (!stop) madvise(at, 8 * PAGE, MADV_DONTNEED);
    return NULL;
}

static void forgotten_pages_are_zero_or_new(void) {
    volatile long *at = map(8);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, forget, (void *)at) == 0);
    long rounds = t_scaled(20000);
    for (long i = 1; i < rounds; i++) {
        volatile long *word = at + i % 8 * 512;
        *word = i;
        long seen = *word;
        CHECK(seen == 0 || seen == i);
    }
    stop = 1;
    pthread_join(thread, NULL);
}

/* Threads that are just born, with siblings that write all over their stacks and thread-local memory. */
static char *stacks;
static void *scribble(void *unused) {
    unsigned random = 1;
    while (!stop) {
        random = random * 1103515245 + 12345;
        ((volatile unsigned *)stacks)[(random >> 8) % (16 * 16384 / 4)] = random;
    }
    return NULL;
}

static int newborn(void *unused) {
    for (;;) syscall(SYS_exit, 0);
}

static void attacked_newborns_hurt_only_their_process(void) {
    for (int round = 0; round < 4; round++) {
        pid_t child = fork();
        if (child == 0) {
            stacks = map(64);
            pthread_t thread;
            pthread_create(&thread, NULL, scribble, NULL);
            alarm(3);
            for (int i = 0; i < 300; i++)
                clone(newborn, stacks + (i % 16 + 1) * 16384 - 64, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
            _exit(0);
        }
        t_wait(child);
    }
    pid_t child = fork();
    if (child == 0) _exit(6);
    t_exits(child, 6);
}

MAIN(CASE(new_mappings_are_always_zero), CASE(large_mappings_keep_their_content), CASE(a_replaced_page_is_never_seen_again),
     CASE(protection_changes_lose_no_write), CASE(a_protection_holds_for_all_threads_once_it_is_set),
     CASE(a_child_has_its_own_copy_while_threads_write), CASE(maps_and_forks_at_once), CASE(forgotten_pages_are_zero_or_new),
     CASE(attacked_newborns_hurt_only_their_process))
