// timeout: 40
#include "t.h"
#include <setjmp.h>

#define PAGE 4096l

static char *anonymous(long pages, int protection, int flags) {
    char *at = mmap(NULL, pages * PAGE, protection, MAP_ANONYMOUS | flags, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

#define RW (PROT_READ | PROT_WRITE)

static sigjmp_buf back;
static void leave(int number) { siglongjmp(back, number); }

/* Whether touching this byte faults. */
static int faults(volatile char *at, bool write) {
    struct sigaction a = {.sa_handler = leave};
    sigaction(SIGSEGV, &a, NULL);
    sigaction(SIGBUS, &a, NULL);
    int number = sigsetjmp(back, 1);
    if (number == 0) {
        if (write)
            *at = *at + 1;
        else
            (void)*at;
    }
    return number;
}

static int file_of(const char *name, long pages) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    char page[PAGE];
    for (long i = 0; i < pages; i++) {
        memset(page, 'a' + i % 26, PAGE);
        CHECK(write(fd, page, PAGE) == PAGE);
    }
    return fd;
}

static void anonymous_memory_is_zero_and_keeps_what_is_written(void) {
    char *at = anonymous(1000, RW, MAP_PRIVATE);
    for (long i = 0; i < 1000; i++) {
        EQUAL(at[i * PAGE + i], 0);
        at[i * PAGE + i] = i;
    }
    for (long i = 0; i < 1000; i++) EQUAL(at[i * PAGE + i], (char)i);
    CHECK(munmap(at, 1000 * PAGE) == 0);
    EQUAL(faults(at, false), SIGSEGV);
}

static void a_hole_in_the_middle_can_be_unmapped(void) {
    char *at = anonymous(10, RW, MAP_PRIVATE);
    memset(at, 1, 10 * PAGE);
    CHECK(munmap(at + 3 * PAGE, 4 * PAGE) == 0);
    for (long i = 0; i < 10; i++) EQUAL(faults(at + i * PAGE, true), i >= 3 && i < 7 ? SIGSEGV : 0);
    EQUAL(at[2 * PAGE + 1], 1);
    CHECK(munmap(at, 10 * PAGE) == 0);
    CHECK(munmap(at, 10 * PAGE) == 0);
}

static void protections_hold(void) {
    char *at = anonymous(4, RW, MAP_PRIVATE);
    memset(at, 9, 4 * PAGE);
    CHECK(mprotect(at + PAGE, PAGE, PROT_READ) == 0);
    CHECK(mprotect(at + 2 * PAGE, PAGE, PROT_NONE) == 0);
    EQUAL(faults(at, true), 0);
    EQUAL(faults(at + PAGE, false), 0);
    EQUAL(faults(at + PAGE, true), SIGSEGV);
    EQUAL(faults(at + 2 * PAGE, false), SIGSEGV);
    EQUAL(faults(at + 3 * PAGE, true), 0);
    CHECK(mprotect(at, 4 * PAGE, RW) == 0);
    EQUAL(at[2 * PAGE], 9);
    EQUAL(faults(at + 2 * PAGE, true), 0);
    FAILS(mprotect(at + 1, PAGE, RW), EINVAL);
    munmap(at + PAGE, PAGE);
    FAILS(mprotect(at, 4 * PAGE, PROT_READ), ENOMEM);
}

static void code_can_be_written_and_run(void) {
    unsigned char *code = (unsigned char *)anonymous(1, RW, MAP_PRIVATE);
    for (int i = 0; i < 100; i++) {
        unsigned char bytes[] = {0xb8, i, 0, 0, 0, 0xc3};
        CHECK(mprotect(code, PAGE, RW) == 0);
        memcpy(code, bytes, sizeof bytes);
        CHECK(mprotect(code, PAGE, PROT_READ | PROT_EXEC) == 0);
        EQUAL(((int (*)(void))code)(), i);
    }
    CHECK(mprotect(code, PAGE, RW) == 0);
    pid_t child = fork();
    if (child == 0) _exit(((int (*)(void))code)());
    t_dies(child, SIGSEGV);
}

static void fixed_mappings_replace_and_noreplace_refuses(void) {
    char *at = anonymous(8, RW, MAP_PRIVATE);
    memset(at, 5, 8 * PAGE);
    EQUAL(mmap(at + 2 * PAGE, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), at + 2 * PAGE);
    EQUAL(at[PAGE], 5);
    EQUAL(at[2 * PAGE], 0);
    EQUAL(at[4 * PAGE], 5);
    FAILS(mmap(at, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    FAILS(mmap(NULL, 0, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(mmap(NULL, PAGE, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(mmap(at + 1, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    FAILS(mmap((void *)0x7fffffff0000, 0x100000, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
    FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 99, 0), EBADF);
    FAILS(munmap(at + 1, PAGE), EINVAL);
}

static void files_can_be_mapped_privately(void) {
    int fd = file_of("private", 8);
    char *at = mmap(NULL, 8 * PAGE, RW, MAP_PRIVATE, fd, 0);
    CHECK(at != MAP_FAILED);
    for (int i = 0; i < 8; i++) EQUAL(at[i * PAGE + 7], 'a' + i);
    at[3 * PAGE] = '!';
    char byte;
    EQUAL(pread(fd, &byte, 1, 3 * PAGE), 1);
    EQUAL(byte, 'd');
    char *other = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 3 * PAGE);
    EQUAL(other[0], 'd');
    EQUAL(pwrite(fd, "Z", 1, 4 * PAGE), 1);
    EQUAL(other[PAGE], 'Z');
    EQUAL(at[3 * PAGE], '!');
}

static void files_can_be_mapped_shared(void) {
    int fd = file_of("shared", 4);
    char *one = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0), *two = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    CHECK(one != MAP_FAILED && two != MAP_FAILED);
    one[PAGE + 5] = 'X';
    EQUAL(two[PAGE + 5], 'X');
    char byte;
    EQUAL(pread(fd, &byte, 1, PAGE + 5), 1);
    EQUAL(byte, 'X');
    EQUAL(pwrite(fd, "Y", 1, 2 * PAGE), 1);
    EQUAL(one[2 * PAGE], 'Y');
    CHECK(msync(one, 4 * PAGE, MS_SYNC) == 0);
    pid_t child = fork();
    if (child == 0) {
        two[0] = 'C';
        _exit(0);
    }
    t_exits(child, 0);
    EQUAL(one[0], 'C');
    int readable = open("shared", O_RDONLY);
    FAILS(mmap(NULL, PAGE, RW, MAP_SHARED, readable, 0), EACCES);
    CHECK(mmap(NULL, PAGE, RW, MAP_PRIVATE, readable, 0) != MAP_FAILED);
    int writable = open("shared", O_WRONLY);
    FAILS(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, writable, 0), EACCES);
}

static void mappings_outlive_their_descriptor_and_name(void) {
    int fd = file_of("gone", 2);
    char *at = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    close(fd);
    unlink("gone");
    EQUAL(at[PAGE], 'b');
    at[0] = 'q';
    EQUAL(at[0], 'q');
}

static void truncation_takes_pages_away(void) {
    int fd = file_of("cut", 8);
    char *shared = mmap(NULL, 8 * PAGE, RW, MAP_SHARED, fd, 0), *private = mmap(NULL, 8 * PAGE, RW, MAP_PRIVATE, fd, 0);
    for (int i = 0; i < 8; i++) CHECK(shared[i * PAGE] == 'a' + i && private[i * PAGE] == 'a' + i);
    CHECK(ftruncate(fd, 3 * PAGE + 100) == 0);
    EQUAL(faults(shared + 4 * PAGE, false), SIGBUS);
    EQUAL(faults(private + 4 * PAGE, false), SIGBUS);
    EQUAL(shared[3 * PAGE + 99], 'd');
    EQUAL(shared[3 * PAGE + 100], 0);
    CHECK(ftruncate(fd, 8 * PAGE) == 0);
    EQUAL(shared[5 * PAGE], 0);
    shared[5 * PAGE] = 1;
    char byte;
    EQUAL(pread(fd, &byte, 1, 5 * PAGE), 1);
    EQUAL(byte, 1);
}

static void shared_anonymous_memory_is_shared_with_children(void) {
    volatile int *at = (void *)anonymous(3, RW, MAP_SHARED);
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            at[1000] += 1;
            at[0] = getpid();
            _exit(0);
        }
        t_exits(child, 0);
        EQUAL(at[0], child);
    }
    EQUAL(at[1000], 10);
}

static void mremap_moves_and_keeps(void) {
    char *at = anonymous(4, RW, MAP_PRIVATE);
    for (int i = 0; i < 4; i++) at[i * PAGE] = i + 1;
    char *big = mremap(at, 4 * PAGE, 400 * PAGE, MREMAP_MAYMOVE);
    CHECK(big != MAP_FAILED);
    for (int i = 0; i < 4; i++) EQUAL(big[i * PAGE], i + 1);
    EQUAL(big[399 * PAGE], 0);
    big[399 * PAGE] = 7;
    EQUAL(mremap(big, 400 * PAGE, 2 * PAGE, 0), big);
    EQUAL(faults(big + 2 * PAGE, false), SIGSEGV);
    char *room = anonymous(10, PROT_NONE, MAP_PRIVATE);
    EQUAL(mremap(big, 2 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room), room);
    EQUAL(room[PAGE], 2);
    EQUAL(faults(big, false), SIGSEGV);
    EQUAL(faults(room + 6 * PAGE, false), SIGSEGV);
    char *tight = anonymous(3, RW, MAP_PRIVATE);
    FAILS(mremap(tight, PAGE, 2 * PAGE, 0), ENOMEM);
    FAILS(mremap(tight + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EINVAL);
    munmap(tight, 3 * PAGE);
    FAILS(mremap(tight, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
}

static void madvise_dontneed_forgets(void) {
    char *at = anonymous(16, RW, MAP_PRIVATE);
    memset(at, 3, 16 * PAGE);
    CHECK(madvise(at + 4 * PAGE, 4 * PAGE, MADV_DONTNEED) == 0);
    EQUAL(at[3 * PAGE], 3);
    EQUAL(at[4 * PAGE], 0);
    EQUAL(at[7 * PAGE + 4095], 0);
    EQUAL(at[8 * PAGE], 3);
    int fd = file_of("advice", 2);
    char *file = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    file[0] = '!';
    CHECK(madvise(file, PAGE, MADV_DONTNEED) == 0);
    EQUAL(file[0], 'a');
    CHECK(madvise(at, 16 * PAGE, MADV_WILLNEED) == 0);
    FAILS(madvise(at + 1, PAGE, MADV_DONTNEED), EINVAL);
    FAILS(madvise(at, PAGE, 12345), EINVAL);
    char *shared = anonymous(2, RW, MAP_SHARED);
    shared[0] = 5;
    CHECK(madvise(shared, PAGE, MADV_DONTNEED) == 0);
    EQUAL(shared[0], 5);
    CHECK(madvise(at, 2 * PAGE, MADV_DONTFORK) == 0);
    at[0] = 1;
    pid_t child = fork();
    if (child == 0) _exit(faults(at, false) == SIGSEGV && faults(at + 2 * PAGE, false) == 0 ? 0 : 1);
    t_exits(child, 0);
    at[3 * PAGE] = 6;
    CHECK(madvise(at + 3 * PAGE, PAGE, MADV_WIPEONFORK) == 0);
    child = fork();
    if (child == 0) _exit(at[3 * PAGE]);
    t_exits(child, 0);
}

static void the_heap_grows_and_shrinks(void) {
    char *start = sbrk(0);
    CHECK(brk(start + 100 * PAGE) == 0);
    memset(start, 1, 100 * PAGE);
    CHECK(brk(start + 10 * PAGE) == 0);
    EQUAL(faults(start + 50 * PAGE, false), SIGSEGV);
    CHECK(brk(start + 100 * PAGE) == 0);
    EQUAL(start[50 * PAGE], 0);
    EQUAL(start[5 * PAGE], 1);
    CHECK(brk(start) == 0);
}

static void copies_are_made_when_either_side_writes(void) {
    enum { PAGES = 300 };
    char *at = anonymous(PAGES, RW, MAP_PRIVATE);
    for (long i = 0; i < PAGES; i++) at[i * PAGE] = i;
    int go[2], done[2];
    CHECK(pipe(go) == 0 && pipe(done) == 0);
    char c = 0;
    pid_t child = fork();
    if (child == 0) {
        for (long i = 0; i < PAGES; i += 2) at[i * PAGE] = 100;
        CHECK(write(done[1], &c, 1) == 1 && read(go[0], &c, 1) == 1);
        for (long i = 0; i < PAGES; i++) EQUAL(at[i * PAGE], i % 2 ? (char)i : 100);
        _exit(0);
    }
    CHECK(read(done[0], &c, 1) == 1);
    for (long i = 0; i < PAGES; i++) EQUAL(at[i * PAGE], (char)i);
    for (long i = 1; i < PAGES; i += 2) at[i * PAGE] = 50;
    CHECK(write(go[1], &c, 1) == 1);
    t_exits(child, 0);
    for (long i = 0; i < PAGES; i++) EQUAL(at[i * PAGE], i % 2 ? 50 : (char)i);
}

static void generations_of_copies(void) {
    volatile char *at = anonymous(20, RW, MAP_PRIVATE);
    at[0] = 1;
    for (int generation = 1; generation < 10; generation++) {
        pid_t child = fork();
        if (child != 0) {
            t_exits(child, 0);
            EQUAL(at[0], generation);
            EQUAL(at[PAGE * generation], 0);
            _exit(0);
        }
        EQUAL(at[0], generation);
        at[0]++;
        at[PAGE * generation] = 1;
    }
}

static void the_kernel_writes_into_copied_pages(void) {
    char *at = anonymous(4, RW, MAP_PRIVATE);
    memset(at, 'p', 4 * PAGE);
    int fd = file_of("source", 4);
    pid_t child = fork();
    if (child == 0) {
        EQUAL(pread(fd, at, 4 * PAGE, 0), 4 * PAGE);
        _exit(at[0] == 'a' && at[3 * PAGE] == 'd' ? 0 : 1);
    }
    t_exits(child, 0);
    for (long i = 0; i < 4 * PAGE; i++) EQUAL(at[i], 'p');
}

static void bad_pointers_are_efault(void) {
    int fd = file_of("pointers", 2), ends[2];
    CHECK(pipe(ends) == 0);
    char *gone = anonymous(2, RW, MAP_PRIVATE), *readable = anonymous(1, PROT_READ, MAP_PRIVATE);
    munmap(gone + PAGE, PAGE);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    FAILS(read(fd, gone + PAGE, 10), EFAULT);
    FAILS(read(fd, readable, 10), EFAULT);
    FAILS(read(fd, (void *)0xffff800000000000, 10), EFAULT);
    FAILS(write(ends[1], (void *)8, 10), EFAULT);
    EQUAL(pread(fd, gone + PAGE - 100, 1000, 0), 100);
    FAILS(open((char *)8, O_RDONLY), EFAULT);
    FAILS(stat("pointers", (struct stat *)(gone + PAGE)), EFAULT);
    FAILS(pipe((int *)8), EFAULT);
    memset(gone, 'x', PAGE);
    FAILS(open(gone, O_RDONLY), ENAMETOOLONG);
    FAILS(open(gone + PAGE - 10, O_RDONLY), EFAULT);
}

static void a_file_is_written_from_its_own_mapping(void) {
    int fd = file_of("itself", 4);
    char *at = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    EQUAL(pwrite(fd, at, 2 * PAGE, 100), 2 * PAGE);
    EQUAL(pread(fd, at + 2 * PAGE, PAGE, PAGE), PAGE);
    EQUAL(pwrite(fd, at + PAGE, PAGE, PAGE), PAGE);
    EQUAL(at[0], 'a');
}

static void the_stack_grows_down(void) {
    volatile char *here = __builtin_frame_address(0);
    for (long i = 1; i < 1500; i++) here[-i * PAGE] = 1;
    EQUAL(here[-700 * PAGE], 1);
}

static void mincore_and_locks(void) {
    char *at = anonymous(4, RW, MAP_PRIVATE);
    unsigned char in[4];
    at[0] = 1;
    CHECK(mincore(at, 4 * PAGE, in) == 0);
    CHECK(in[0] & 1);
    CHECK(mlock(at, 2 * PAGE) == 0 && munlock(at, 2 * PAGE) == 0);
    munmap(at + PAGE, PAGE);
    FAILS(mincore(at, 4 * PAGE, in), ENOMEM);
}

static void memfds_are_files_without_a_name(void) {
    int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, 3 * PAGE) == 0);
    char *at = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 0);
    at[PAGE] = 'm';
    char byte;
    EQUAL(pread(fd, &byte, 1, PAGE), 1);
    EQUAL(byte, 'm');
    munmap(at, 3 * PAGE);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW) == 0);
    FAILS(pwrite(fd, "x", 1, 0), EPERM);
    FAILS(ftruncate(fd, 9 * PAGE), EPERM);
    EQUAL(fcntl(fd, F_GET_SEALS), F_SEAL_WRITE | F_SEAL_GROW);
}

static void a_memfd_that_is_mapped_cannot_be_sealed_against_writes(void) {
    int fd = memfd_create("memory", MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    char *at = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
    FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    munmap(at, PAGE);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
}

static void mappings_and_unmappings_against_a_model(void) {
    enum { SPAN = 64 };
    char *base = anonymous(SPAN, PROT_NONE, MAP_PRIVATE);
    char state[SPAN] = {0}, value[SPAN] = {0}; /* 0 none, 1 read, 2 write */
    unsigned random = 12345;
    long rounds = t_scaled(1500);
    for (long round = 0; round < rounds; round++) {
        random = random * 1103515245 + 12345;
        int first = random >> 8 & 63, count = 1 + (random >> 16 & 7), what = random >> 24 & 3;
        if (first + count > SPAN) count = SPAN - first;
        char *at = base + first * PAGE;
        if (what == 0) {
            CHECK(mmap(at, count * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
            for (int i = first; i < first + count; i++) state[i] = 2, value[i] = 0;
        } else if (what == 1) {
            CHECK(mprotect(at, count * PAGE, PROT_READ) == 0);
            for (int i = first; i < first + count; i++) state[i] = 1;
        } else if (what == 2) {
            CHECK(mprotect(at, count * PAGE, RW) == 0);
            for (int i = first; i < first + count; i++) {
                state[i] = 2;
                base[i * PAGE] = value[i] = round | 1;
            }
        } else {
            CHECK(madvise(at, count * PAGE, MADV_DONTNEED) == 0);
            for (int i = first; i < first + count; i++) value[i] = 0;
        }
        if (round % 50 == 0) {
            pid_t child = fork();
            if (child == 0) {
                for (int i = 0; i < SPAN; i++)
                    if (state[i] == 2) base[i * PAGE] = 77;
                _exit(0);
            }
            t_exits(child, 0);
        }
        int probe = random >> 10 & 63;
        if (state[probe] > 0)
            EQUAL(base[probe * PAGE], value[probe]);
        else
            EQUAL(faults(base + probe * PAGE, false), SIGSEGV);
        if (state[probe] == 1) EQUAL(faults(base + probe * PAGE, true), SIGSEGV);
    }
}

MAIN(CASE(anonymous_memory_is_zero_and_keeps_what_is_written), CASE(a_hole_in_the_middle_can_be_unmapped), CASE(protections_hold),
     CASE(code_can_be_written_and_run), CASE(fixed_mappings_replace_and_noreplace_refuses), CASE(files_can_be_mapped_privately),
     CASE(files_can_be_mapped_shared), CASE(mappings_outlive_their_descriptor_and_name), CASE(truncation_takes_pages_away),
     CASE(shared_anonymous_memory_is_shared_with_children), CASE(mremap_moves_and_keeps), CASE(madvise_dontneed_forgets),
     CASE(the_heap_grows_and_shrinks), CASE(copies_are_made_when_either_side_writes), CASE(generations_of_copies),
     CASE(the_kernel_writes_into_copied_pages), CASE(bad_pointers_are_efault), CASE(a_file_is_written_from_its_own_mapping),
     CASE(the_stack_grows_down), CASE(mincore_and_locks), CASE(memfds_are_files_without_a_name),
     CASE(a_memfd_that_is_mapped_cannot_be_sealed_against_writes), CASE(mappings_and_unmappings_against_a_model))
