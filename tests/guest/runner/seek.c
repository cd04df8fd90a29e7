/* Looks for a secret that the host keeps: in all memory and files that a program can reach ("memory"), or in a file of the host outside the machine's
 * root ("file"), whose path it knows. The secret comes with every bit turned over, so that it is nowhere in the program itself.
 *     seek memory TURNED          seek file TURNED PATH
 * Says "looked at N bytes" (memory) or "tried N ways" (file), and "FOUND where" for each place. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned char turned[64];
static size_t length;
static unsigned long looked, tried;

static void look(const volatile unsigned char *at, size_t n, const char *where) {
    looked += n;
    for (size_t i = 0; i + length <= n; i++) {
        size_t k = 0;
        while (k < length && (unsigned char)~at[i + k] == turned[k]) k++;
        if (k == length) {
            printf("FOUND %s\n", where);
            fflush(stdout);
        }
    }
}

static sigjmp_buf back;
static void leave(int number) { siglongjmp(back, number); }

static void look_at_page(unsigned long page) {
    char where[64];
    if (sigsetjmp(back, 1)) return;
    (void)*(volatile char *)page;
    snprintf(where, sizeof where, "page %lx", page);
    look((void *)page, 4096, where);
}

static void look_at_file(const char *path, size_t most) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return;
    static unsigned char buffer[65536 + 64];
    for (size_t done = 0; done < most;) {
        ssize_t n = read(fd, buffer, 65536);
        if (n <= 0) break;
        look(buffer, n, path);
        done += n;
    }
    close(fd);
}

static void look_below(const char *directory, int depth) {
    DIR *d = opendir(directory);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[1024];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
        /* What reading would wait for, and memory, which is looked at page by page. */
        if (strstr(path, "kmsg") || strstr(path, "pagemap") || strstr(path, "random") || strstr(path, "/zero") || strstr(path, "/full")) continue;
        struct stat s;
        if (lstat(path, &s) < 0) continue;
        if (S_ISDIR(s.st_mode) && depth > 0) look_below(path, depth - 1);
        if (S_ISREG(s.st_mode) || S_ISCHR(s.st_mode) || S_ISBLK(s.st_mode)) look_at_file(path, 1 << 20);
    }
    closedir(d);
}

static void memory(void) {
    struct sigaction a = {.sa_handler = leave};
    sigaction(SIGSEGV, &a, NULL);
    sigaction(SIGBUS, &a, NULL);
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned long begin, end;
    while (maps && fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx r", &begin, &end) == 2)
            for (unsigned long page = begin; page < end && page - begin < 64ul << 20; page += 4096) look_at_page(page);
    /* The stub: all that may be mapped there, and samples of what should not. */
    for (unsigned long page = 0x7fff00000000; page < 0x7fff00200000; page += 4096) look_at_page(page);
    for (unsigned long page = 0x7fff10000000; page < 0x7fff10800000; page += 4096) look_at_page(page);
    for (unsigned long page = 0x7fff00000000; page < 0x7ffffffff000; page += 1 << 20) look_at_page(page);
    for (unsigned long page = 0x550000000000; page < 0x580000000000; page += 1ul << 32) look_at_page(page);
    look_at_page(0xffffffffff600000);
    look_below("/proc", 4);
    look_below("/sys", 3);
    look_below("/dev", 2);
    /* The kernel log, and what its memory devices would give. */
    static char log[1 << 20];
    long n = syscall(SYS_syslog, 3, log, sizeof log);
    if (n > 0) look((unsigned char *)log, n, "the kernel log");
    printf("looked at %lu bytes\n", looked);
}

static void way(const char *path) {
    tried++;
    look_at_file(path, 1 << 20);
}

static void file(const char *host_path) {
    char path[4096];
    way(host_path);
    for (int ups = 1; ups < 20; ups++) {
        char *p = path;
        for (int i = 0; i < ups; i++) p += sprintf(p, "../");
        sprintf(p, "%s", host_path + 1);
        way(path);
        snprintf(path, sizeof path, "/proc/self/root/../%s", host_path);
        way(path);
    }
    const char *prefixes[] = {"/proc/1/root", "/proc/self/cwd/..", "/proc/self/fd/0/..", "/dev/fd/..", "/proc/1/cwd/../..", "/absolute", "/relative", "/outside", "/outside/..", "/swapped"};
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        way(prefixes[i]);
        snprintf(path, sizeof path, "%s/%s", prefixes[i], host_path);
        way(path);
        snprintf(path, sizeof path, "%s/secret", prefixes[i]);
        way(path);
    }
    /* File systems of the host, if one could be named from inside. */
    mkdir("/m", 0755);
    char directory[4096];
    snprintf(directory, sizeof directory, "%s", host_path);
    *strrchr(directory, '/') = 0;
    const char *types[] = {"hostfs", "hppfs", "humfs", "9p", "overlay", "none"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int k = 0; k < 2; k++)
            if (mount(k ? directory : "none", "/m", types[i], 0, directory) == 0) {
                way("/m/secret");
                umount("/m");
            }
    /* Out of a root that is not the machine's. */
    mkdir("/jail", 0755);
    int top = open("/", O_RDONLY | O_DIRECTORY);
    if (chroot("/jail") == 0 && fchdir(top) == 0) {
        for (int i = 0; i < 100; i++)
            if (chdir("..") < 0) break;
        way(host_path + 1);
        if (chroot(".") == 0) way(host_path);
    }
    /* While the host swaps a directory of ours for a link to theirs. */
    for (time_t until = time(NULL) + 2; time(NULL) < until;) {
        way("/swapped/secret");
        if (chdir("/swapped") == 0) {
            way("secret");
            way("../outside-root/secret");
            chdir("/");
        }
    }
    printf("tried %lu ways\n", tried);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    for (; length < sizeof turned && argv[2][2 * length]; length++) {
        unsigned byte;
        if (sscanf(argv[2] + 2 * length, "%2x", &byte) != 1) return 2;
        turned[length] = byte;
    }
    if (!strcmp(argv[1], "memory")) memory();
    if (!strcmp(argv[1], "file") && argc > 3) file(argv[3]);
    return 0;
}
