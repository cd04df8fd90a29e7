#include "t.h"
#include <sys/utsname.h>
#include <ctype.h>
#include <sys/file.h>
#include <sys/resource.h>

static char text[65536];
static long slurp(const char *name) {
    int fd = open(name, O_RDONLY);
    if (fd < 0) return -1;
    long have = 0, n;
    while ((n = read(fd, text + have, sizeof text - 1 - have)) > 0) have += n;
    close(fd);
    text[have] = 0;
    return have;
}

static void self_is_this_process(void) {
    char link[64], wanted[64];
    long n = readlink("/proc/self", link, sizeof link);
    CHECK(n > 0);
    link[n] = 0;
    EQUAL(atol(link), getpid());
    CHECK(slurp("/proc/self/stat") > 0);
    EQUAL(atol(text), getpid());
    CHECK(strstr(text, "(procfs)"));
    snprintf(wanted, sizeof wanted, "\nPid:\t%d\n", getpid());
    CHECK(slurp("/proc/self/status") > 0 && strstr(text, wanted));
    snprintf(wanted, sizeof wanted, "\nPPid:\t%d\n", getppid());
    CHECK(strstr(text, wanted) && strstr(text, "\nVmRSS:") && strstr(text, "\nThreads:\t1\n"));
    CHECK(slurp("/proc/self/comm") > 0 && !strcmp(text, "procfs\n"));
    CHECK(slurp("/proc/self/cmdline") > 0 && strstr(text, "procfs"));
    CHECK(readlink("/proc/self/exe", text, sizeof text) > 0);
    CHECK(readlink("/proc/self/cwd", text, sizeof text) > 0 && text[0] == '/');
    unsigned long aux[2];
    int fd = open("/proc/self/auxv", O_RDONLY), found = 0;
    while (read(fd, aux, sizeof aux) == sizeof aux && aux[0])
        if (aux[0] == 6) found = aux[1] == 4096;
    CHECK(found);
}

static void descriptors_are_listed(void) {
    int fd = open("/dev/null", O_RDONLY);
    char name[64], link[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long n = readlink(name, link, sizeof link);
    CHECK(n == 9 && !memcmp(link, "/dev/null", 9));
    int again = open(name, O_RDONLY);
    CHECK(again >= 0);
    close(fd);
    FAILS(readlink(name, link, sizeof link), ENOENT);
}

static void maps_tell_the_mappings(void) {
    char *at = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char wanted[64];
    CHECK(slurp("/proc/self/maps") > 0 && strstr(text, "[stack]"));
    mprotect(at, 4096, PROT_READ);
    snprintf(wanted, sizeof wanted, "%lx-%lx r--p ", (long)at, (long)at + 4096);
    CHECK(slurp("/proc/self/maps") > 0 && strstr(text, wanted));
}

static void the_machine_tells_of_itself(void) {
    CHECK(slurp("/proc/meminfo") > 0 && strstr(text, "MemTotal:") && strstr(text, "MemFree:") && strstr(text, "MemAvailable:"));
    CHECK(slurp("/proc/cpuinfo") > 0 && strstr(text, "processor\t: 0"));
    CHECK(slurp("/proc/uptime") > 0 && isdigit(text[0]));
    CHECK(slurp("/proc/loadavg") > 0 && isdigit(text[0]));
    CHECK(slurp("/proc/stat") > 0 && !strncmp(text, "cpu ", 4) && strstr(text, "btime "));
    CHECK(slurp("/proc/version") > 0 && !strncmp(text, "Linux version ", 14));
    CHECK(slurp("/proc/filesystems") > 0 && strstr(text, "tmpfs"));
    CHECK(slurp("/proc/mounts") > 0 && strstr(text, " /proc proc "));
    CHECK(slurp("/proc/cmdline") >= 0);
}

static void a_child_comes_and_goes(void) {
    char name[64];
    pid_t child = fork();
    if (child == 0)
        for (;;) pause();
    snprintf(name, sizeof name, "/proc/%d/stat", child);
    CHECK(slurp(name) > 0);
    kill(child, SIGKILL);
    siginfo_t info;
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    CHECK(slurp(name) > 0 && strstr(text, ") Z "));
    t_dies(child, SIGKILL);
    EQUAL(slurp(name), -1);
}

static void locks_are_listed(void) {
    char name[64];
    snprintf(name, sizeof name, "locked-%d", getpid());
    int fd = open(name, O_RDWR | O_CREAT, 0600);
    struct stat st;
    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    unlink(name);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0 && flock(fd, LOCK_SH) == 0);
    char posix[64], whole[64];
    snprintf(posix, sizeof posix, ":%lu 10 29\n", (long)st.st_ino);
    snprintf(whole, sizeof whole, ":%lu 0 EOF\n", (long)st.st_ino);
    CHECK(slurp("/proc/locks") > 0 && strstr(text, posix) && strstr(text, whole));
    CHECK(strstr(text, ": POSIX  ADVISORY  WRITE ") && strstr(text, ": FLOCK  ADVISORY  READ "));
    close(fd);
    CHECK(slurp("/proc/locks") >= 0 && !strstr(text, posix) && !strstr(text, whole));
}

static void open_files_are_counted(void) {
    long before, free, most, after;
    CHECK(slurp("/proc/sys/fs/file-nr") > 0 && sscanf(text, "%ld %ld %ld", &before, &free, &most) == 3);
    CHECK(before > 0 && before < 1000000 && free == 0);
    int fds[300];
    struct rlimit limit = {400, 400};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int i = 0; i < 300; i++) CHECK((fds[i] = open("/dev/null", O_RDONLY)) >= 0);
    CHECK(slurp("/proc/sys/fs/file-nr") > 0 && sscanf(text, "%ld", &after) == 1);
    CHECK(after > before);
}

static void what_goes_on_is_one_mapping(void) {
    int fd = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(ftruncate(fd, 16384) == 0);
    char *at = mmap(NULL, 16384, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mmap(at, 8192, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == at);
    CHECK(mmap(at + 8192, 8192, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 8192) == at + 8192);
    char wanted[64];
    snprintf(wanted, sizeof wanted, "%lx-%lx r--s ", (long)at, (long)at + 16384);
    CHECK(slurp("/proc/self/maps") > 0 && strstr(text, wanted));
}

static int put(const char *name, const char *what) {
    int fd = open(name, O_WRONLY);
    if (fd < 0) return -1;
    int n = write(fd, what, strlen(what)), saved = errno;
    close(fd);
    errno = saved;
    return n == (int)strlen(what) ? 0 : -1;
}

static void what_may_be_written_is_kept(void) {
    CHECK(put("/proc/self/comm", "another name") == 0);
    CHECK(slurp("/proc/self/comm") > 0 && !strcmp(text, "another name\n"));
    CHECK(put("/proc/self/oom_score_adj", "500") == 0);
    CHECK(slurp("/proc/self/oom_score_adj") > 0 && !strcmp(text, "500\n"));
    FAILS(put("/proc/self/oom_score_adj", "1001"), EINVAL);
    pid_t child = fork();
    if (child == 0) {
        char name[64];
        snprintf(name, sizeof name, "/proc/%d/comm", getppid());
        FAILS(put(name, "stranger"), EINVAL);
        CHECK(slurp("/proc/self/oom_score_adj") > 0 && !strcmp(text, "500\n"));
        _exit(0);
    }
    t_exits(child, 0);
}

static void the_kernel_has_names(void) {
    struct utsname names;
    CHECK(uname(&names) == 0);
    char line[80];
    snprintf(line, sizeof line, "%s\n", names.release);
    CHECK(slurp("/proc/sys/kernel/osrelease") > 0 && !strcmp(text, line));
    snprintf(line, sizeof line, "%s\n", names.nodename);
    CHECK(slurp("/proc/sys/kernel/hostname") > 0 && !strcmp(text, line));
    CHECK(slurp("/proc/sys/kernel/ostype") == 6 && !strcmp(text, "Linux\n"));
    CHECK(slurp("/proc/sys/kernel/random/boot_id") == 37);
    strcpy(line, text);
    CHECK(slurp("/proc/sys/kernel/random/boot_id") == 37 && !strcmp(text, line));
    CHECK(slurp("/proc/sys/kernel/random/uuid") == 37 && strcmp(text, line));
    CHECK(slurp("/proc/sys/kernel/pid_max") > 0 && atoi(text) > getpid());
}

MAIN(CASE(the_kernel_has_names), CASE(what_may_be_written_is_kept), CASE(locks_are_listed), CASE(open_files_are_counted), CASE(what_goes_on_is_one_mapping), CASE(self_is_this_process), CASE(descriptors_are_listed), CASE(maps_tell_the_mappings), CASE(the_machine_tells_of_itself),
     CASE(a_child_comes_and_goes))
