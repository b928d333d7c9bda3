/* The bell of a connection that waited for its turn is silent when nbd_memory_hush() returns, however the grant and the
 * waiter run beside each other. A bell that still rings would end the connection's next wait for its client at once.
 *
 *     nbd_memory_check ROUNDS
 *
 * Built by tests/nbd/test_connection_memory.py. Prints the bells that had to be read, of ROUNDS turns. */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "nbd/nbd_memory.h"

static nbd_memory memory;
static nbd_claim holder, waiter;
static uint64_t moved;

static int rings(int bell)
{
    struct pollfd p = {.fd = bell, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

static void *give(void *unused)
{
    (void)unused;
    while (!nbd_memory_waiting(&memory))
        sched_yield();
    nbd_memory_give(&memory, &holder, 0);
    return NULL;
}

static void one_turn(int bell, int *rang)
{
    pthread_t giver;
    if (!nbd_memory_try(&memory, &holder, NBD_MEMORY_LEAST_BYTES) || pthread_create(&giver, NULL, give, NULL))
        exit(2);
    nbd_memory_queue(&memory, &waiter, 1);
    while (!nbd_claim_flag(&waiter.granted))
        ; /* no doze, which would read the bell: the grant is seen the moment it is there */
    nbd_memory_hush(&memory, bell);
    if (rings(bell)) {
        fprintf(stderr, "the bell rings though its turn has come\n");
        exit(1);
    }
    pthread_join(giver, NULL);
    if (rings(bell)) {
        fprintf(stderr, "the bell was rung after the turn had come\n");
        exit(1);
    }
    nbd_memory_give(&memory, &waiter, 0);
    ++*rang;
}

int main(int argc, char **argv)
{
    int ends[2], rang = 0;
    if (argc != 2 || pipe(ends))
        return 2;
    nbd_memory_init(&memory, NBD_MEMORY_LEAST_BYTES, 4000);
    holder = (nbd_claim){.fd = -1, .bell = -1, .received_bytes = &moved, .sent_bytes = &moved};
    waiter = (nbd_claim){.fd = -1, .bell = ends[1], .received_bytes = &moved, .sent_bytes = &moved};
    for (int i = 0; i < atoi(argv[1]); i++)
        one_turn(ends[0], &rang);
    nbd_memory_hush(&memory, -1); /* a connection without a bell */
    nbd_memory_destroy(&memory);
    printf("%d turns\n", rang);
    return 0;
}
