/*
 * hog - eats memory until it is killed.
 *
 *   hog [-n COMM] [-m MIB [-r FILE]] [-f FILE] [-w FILE] [-s] [-p]
 *
 *   -n  take this name first (any bytes; the kernel keeps 15)
 *   -m  stop at this many MiB and sleep
 *   -r  stop there only to read this file, over and over, until it is removed; then go on
 *   -f  fill this file instead of anonymous memory
 *   -w  wait until this file exists
 *   -p  eat nothing; for each byte on standard input fork a hog, and print its pid; end with the input
 *   -s  eat nothing; make processes that end at once, one after the other, for ever
 *
 * Static and small: what is charged to the cgroup is what was asked for.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20, PAGE = 4096, FAILED = 3 };

static void eat_one_mib(int fd)
{
	static char page[MIB];

	if (fd >= 0) {
		if (write(fd, page, MIB) != MIB)
			exit(FAILED);
		return;
	}
	char *memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		exit(FAILED);
	memset(memory, 'x', MIB);
}

static void read_until_removed(const char *file)
{
	struct stat status;
	char byte;
	int fd = open(file, O_RDONLY);

	if (fd < 0)
		exit(FAILED);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM); /* page by page: readahead gives up at the limit */
	do {
		for (off_t at = 0; pread(fd, &byte, 1, at) == 1; at += PAGE)
			;
		fstat(fd, &status);
	} while (status.st_nlink);
}

static _Noreturn void fork_for_ever(void)
{
	for (;;) {
		pid_t pid = vfork();

		if (pid == 0)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
}

/* Returns in each child. */
static void be_a_parent(void)
{
	char byte;

	signal(SIGCHLD, SIG_IGN); /* nobody has to reap them */
	while (read(STDIN_FILENO, &byte, 1) == 1) {
		pid_t pid = fork();

		if (pid == 0)
			return;
		dprintf(STDOUT_FILENO, "%d\n", pid);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	long limit = -1;
	const char *file = NULL;
	int fd = -1;

	for (int option; (option = getopt(argc, argv, "n:m:r:f:w:sp")) != -1;) {
		switch (option) {
		case 'n':
			prctl(PR_SET_NAME, optarg);
			break;
		case 'm':
			limit = atol(optarg);
			break;
		case 'r':
			file = optarg;
			break;
		case 'f':
			if ((fd = open(optarg, O_CREAT | O_WRONLY, 0600)) < 0)
				return FAILED;
			break;
		case 'w':
			while (access(optarg, F_OK))
				usleep(20000);
			break;
		case 's':
			fork_for_ever();
		case 'p':
			be_a_parent();
			break;
		default:
			return 2;
		}
	}
	for (long mib = 0; mib != limit || file; mib++) {
		if (mib == limit)
			read_until_removed(file);
		eat_one_mib(fd);
	}
	for (;;)
		pause();
}
