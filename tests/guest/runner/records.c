// Writes records that a check can tell from anything else, each on the disk before it is announced.
//
// `records write DIR`: appends records to files of DIR for ever, with other files made and removed meanwhile. After fsync(2) of a record it prints
// `=NUMBER`. `records extents FILE` prints `=extents COUNT BYTES FLAGS` of FIEMAP, the flags those of the last extent. `records check DIR`: reads all and prints `=found NUMBER`, the records that are whole from the first one on; or `=broken ...`.
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS = 500, PER_FILE = 40 };

struct record {
	uint64_t number;
	uint64_t words[WORDS];
	uint64_t sum;
};

static void fill(struct record *r, uint64_t number)
{
	uint64_t x = number * 0x9e3779b97f4a7c15u + 1, sum = number;
	r->number = number;
	for (int i = 0; i < WORDS; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		r->words[i] = x;
		sum = sum * 31 + x;
	}
	r->sum = sum;
}

static int open_file(const char *dir, uint64_t number, int flags)
{
	char name[300];
	snprintf(name, sizeof name, "%s/records.%llu", dir, (unsigned long long)(number / PER_FILE));
	return open(name, flags, 0644);
}

static uint64_t check(const char *dir)
{
	struct record want, got;
	for (uint64_t number = 0;; number++) {
		int fd = open_file(dir, number, O_RDONLY);
		if (fd < 0)
			return number;
		ssize_t n = pread(fd, &got, sizeof got, number % PER_FILE * sizeof got);
		close(fd);
		fill(&want, number);
		if (n != sizeof got || memcmp(&want, &got, sizeof got))
			return number;
	}
}

static int extents(const char *name)
{
	struct {
		struct fiemap head;
		struct fiemap_extent extents[64];
	} map = { .head = { .fm_length = ~0ull, .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = 64 } };
	int fd = open(name, O_RDONLY), size = 0;
	if (fd < 0 || ioctl(fd, FIGETBSZ, &size) || ioctl(fd, FS_IOC_FIEMAP, &map)) {
		printf("=broken %s\n", strerror(errno));
		return 1;
	}
	unsigned long long bytes = 0, end = 0;
	unsigned flags = 0;
	for (unsigned i = 0; i < map.head.fm_mapped_extents; i++) {
		struct fiemap_extent *e = &map.extents[i];
		if (e->fe_logical < end || !e->fe_physical || e->fe_length % size)
			printf("=wrong extent %u\n", i);
		end = e->fe_logical + e->fe_length;
		bytes += e->fe_length;
		flags = e->fe_flags;
	}
	printf("=extents %u %llu %x\n", map.head.fm_mapped_extents, bytes, flags);
	map.head.fm_flags = 0x80000000;
	if (ioctl(fd, FS_IOC_FIEMAP, &map) == 0 || errno != EBADR)
		printf("=an unknown flag is taken\n");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "extents"))
		return extents(argv[2]);
	uint64_t number = check(argv[2]);
	if (!strcmp(argv[1], "check")) {
		printf("=found %llu\n", (unsigned long long)number);
		return 0;
	}
	for (;; number++) {
		struct record r;
		char churn[300];
		int fd = open_file(argv[2], number, O_RDWR | O_CREAT);
		fill(&r, number);
		if (fd < 0 || pwrite(fd, &r, sizeof r, number % PER_FILE * sizeof r) != sizeof r || fsync(fd)) {
			printf("=broken %s\n", strerror(errno));
			return 1;
		}
		close(fd);
		printf("=%llu\n", (unsigned long long)number);
		fflush(stdout);
		// Work that nobody waits for: names and blocks that come and go.
		snprintf(churn, sizeof churn, "%s/churn.%llu", argv[2], (unsigned long long)(number % 17));
		fd = open(churn, O_WRONLY | O_CREAT | O_TRUNC, 0644);
		if (fd >= 0 && write(fd, &r, number % sizeof r) < 0)
			perror("churn");
		close(fd);
		snprintf(churn, sizeof churn, "%s/churn.%llu", argv[2], (unsigned long long)((number + 5) % 17));
		unlink(churn);
	}
}
