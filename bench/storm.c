/*
 * storm - makes short-lived processes or threads at a steady rate.
 *
 *   storm process|thread PER_SECOND SECONDS
 *
 * Begins when it can read a line, and says how many it made.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *end(void *nothing)
{
	return nothing;
}

static void make(int threads)
{
	if (threads) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, end, NULL))
			exit(3);
		pthread_join(thread, NULL);
		return;
	}
	pid_t child = vfork();
	if (child == 0)
		_exit(0);
	if (child < 0)
		exit(3);
	waitpid(child, NULL, 0);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	int threads = !strcmp(argv[1], "thread");
	double rate = atof(argv[2]), seconds = atof(argv[3]);

	getchar();
	double begin = now(), passed;
	long made = 0;
	while ((passed = now() - begin) < seconds) {
		while (made < rate * passed) {
			make(threads);
			made++;
		}
		usleep(1000);
	}
	printf("%ld %f\n", made, now() - begin);
}
