/*
 * hog - eats memory until it is killed.
 *
 *   hog [-n COMM] [-m MIB] [-f FILE] [-w FILE]
 *
 *   -n  take this name first (any bytes; the kernel keeps 15)
 *   -m  stop at this many MiB and sleep
 *   -f  fill this file instead of anonymous memory
 *   -w  wait until this file exists
 *
 * Static and small: what is charged to the cgroup is what was asked for.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { MIB = 1 << 20, FAILED = 3 };

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

int main(int argc, char **argv)
{
	long limit = -1;
	int fd = -1;

	for (int option; (option = getopt(argc, argv, "n:m:f:w:")) != -1;) {
		switch (option) {
		case 'n':
			prctl(PR_SET_NAME, optarg);
			break;
		case 'm':
			limit = atol(optarg);
			break;
		case 'f':
			if ((fd = open(optarg, O_CREAT | O_WRONLY, 0600)) < 0)
				return FAILED;
			break;
		case 'w':
			while (access(optarg, F_OK))
				usleep(20000);
			break;
		default:
			return 2;
		}
	}
	for (long mib = 0; mib != limit; mib++)
		eat_one_mib(fd);
	for (;;)
		pause();
}
