// SPDX-License-Identifier: Apache-2.0
//
// The asynchronous form: a bounded queue in front of one client, whose worker is the only thread
// this library ever starts. Requests are served in order. `mutex` guards the two lists and the
// counts; the client belongs to the worker.
#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { WORKER_STACK_BYTE_COUNT = 256 * 1024 };

/// One request; what it points to was copied behind it, except for the caller's own memory.
struct job {
    struct job *next;
    kvs_completion completion;
    kvsi_instant deadline;
    const kvs_key *keys;
    size_t key_count;
    const kvs_destination *destinations;
    const kvs_const_span *parts;
    size_t part_count;
    kvs_put_options options;
    kvs_get_result *results;
    kvs_lookup_record *records;
    _Alignas(max_align_t) uint8_t copies[];
};

struct job_list {
    struct job *first;
    struct job *last;
};

struct kvs_queue {
    kvs_client *client;
    struct kvsi_fork_guard fork_guard;
    int event_descriptor;
    int cancel_descriptor;
    size_t depth;
    pthread_t worker;
    pthread_mutex_t mutex;
    pthread_cond_t submitted;
    struct job_list waiting;
    struct job_list finished;
    size_t job_count;  // between submit and drain
    bool is_closing;
};

static void push(struct job_list *list, struct job *job) {
    job->next = NULL;
    if (list->last != NULL) {
        list->last->next = job;
    } else {
        list->first = job;
    }
    list->last = job;
}

static struct job *pop(struct job_list *list) {
    struct job *job = list->first;
    if (job != NULL) {
        list->first = job->next;
        list->last = list->first != NULL ? list->last : NULL;
    }
    return job;
}

static void free_all(struct job_list *list) {
    for (struct job *job = pop(list); job != NULL; job = pop(list)) {
        free(job);
    }
}

// Worker ------------------------------------------------------------------------------------------

static kvs_status serve(kvs_client *client, struct job *job, uint32_t milliseconds) {
    size_t count = 0;
    kvs_status status = KVS_INTERNAL;
    switch (job->completion.operation) {
    case KVS_OPERATION_GET:
        return kvs_get(client, job->keys, job->key_count, job->destinations, job->results, NULL,
                       milliseconds);
    case KVS_OPERATION_PUT:
        return kvs_put(client, job->keys, job->parts, job->part_count, &job->options,
                       milliseconds);
    case KVS_OPERATION_LOOKUP:
        return kvs_lookup(client, job->keys, job->key_count, job->records, milliseconds);
    case KVS_OPERATION_LOOKUP_PREFIX:
        status = kvs_lookup_prefix(client, job->keys, job->key_count, &count, job->records,
                                   milliseconds);
        break;
    case KVS_OPERATION_DELETE:
        status = kvs_delete(client, job->keys, job->key_count, &count, milliseconds);
        break;
    }
    job->completion.count = count;
    return status;
}

static void run(kvs_client *client, struct job *job) {
    kvsi_instant now = kvsi_now();
    if (now < job->deadline) {
        job->completion.status = serve(client, job, kvsi_left_milliseconds(job->deadline));
        return;
    }
    job->completion.status = KVS_DEADLINE_EXCEEDED;
    for (size_t index = 0; job->results != NULL && index < job->key_count; index += 1) {
        job->results[index] = (kvs_get_result){.status = KVS_DEADLINE_EXCEEDED};
    }
}

static void signal_event(int descriptor) {
    uint64_t one = 1;
    ssize_t written = write(descriptor, &one, sizeof one);
    (void)written;  // can only fail when the counter is full, and then it is readable anyway
}

static void *work(void *argument) {
    kvs_queue *queue = argument;
    (void)pthread_mutex_lock(&queue->mutex);
    while (!queue->is_closing) {
        struct job *job = pop(&queue->waiting);
        if (job == NULL) {
            (void)pthread_cond_wait(&queue->submitted, &queue->mutex);
            continue;
        }
        (void)pthread_mutex_unlock(&queue->mutex);
        run(queue->client, job);
        (void)pthread_mutex_lock(&queue->mutex);
        push(&queue->finished, job);
        signal_event(queue->event_descriptor);
    }
    (void)pthread_mutex_unlock(&queue->mutex);
    return NULL;
}

/// Starts the worker with all signals blocked: they are the engine's business.
static int start_worker(kvs_queue *queue) {
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error != 0) {
        return error;
    }
    (void)pthread_attr_setstacksize(&attributes, WORKER_STACK_BYTE_COUNT);
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&queue->worker, &attributes, work, queue);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return error;
}

// Open and close ----------------------------------------------------------------------------------

static void free_queue(kvs_queue *queue) {
    if (queue->event_descriptor >= 0) {
        (void)close(queue->event_descriptor);
    }
    if (queue->cancel_descriptor >= 0) {
        (void)close(queue->cancel_descriptor);
    }
    kvs_close(queue->client);
    kvsi_fork_guard_close(&queue->fork_guard);
    (void)pthread_cond_destroy(&queue->submitted);
    (void)pthread_mutex_destroy(&queue->mutex);
    free_all(&queue->waiting);
    free_all(&queue->finished);
    free(queue);
}

kvs_status kvs_queue_open(const char *address, const kvs_options *options, size_t depth,
                          kvs_queue **queue) {
    if (queue == NULL || depth == 0 || depth > KVS_QUEUE_DEPTH_MAXIMUM) {
        return KVS_INVALID_ARGUMENT;
    }
    *queue = NULL;
    kvs_queue *opened = calloc(1, sizeof *opened);
    if (opened == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    opened->depth = depth;
    (void)pthread_mutex_init(&opened->mutex, NULL);
    (void)pthread_cond_init(&opened->submitted, NULL);
    opened->event_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    opened->cancel_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    kvs_status status = kvs_open(address, options, &opened->client);
    if (status == KVS_OK && (opened->event_descriptor < 0 || opened->cancel_descriptor < 0 ||
                             !kvsi_fork_guard_open(&opened->fork_guard))) {
        status = KVS_SYSTEM;
    }
    if (status == KVS_OK) {
        opened->client->cancel_descriptor = opened->cancel_descriptor;
        status = start_worker(opened) == 0 ? KVS_OK : KVS_SYSTEM;
    }
    if (status != KVS_OK) {
        free_queue(opened);
        return status;
    }
    *queue = opened;
    return KVS_OK;
}

void kvs_queue_close(kvs_queue *queue) {
    if (queue == NULL) {
        return;
    }
    if (kvsi_fork_guard_tripped(&queue->fork_guard)) {
        // There is no worker here, and what it was in the middle of cannot be told: the memory is
        // left alone, the descriptors are given back.
        (void)close(queue->event_descriptor);
        (void)close(queue->cancel_descriptor);
        return;
    }
    (void)pthread_mutex_lock(&queue->mutex);
    queue->is_closing = true;
    (void)pthread_cond_signal(&queue->submitted);
    (void)pthread_mutex_unlock(&queue->mutex);
    signal_event(queue->cancel_descriptor);
    (void)pthread_join(queue->worker, NULL);
    free_queue(queue);
}

int kvs_queue_event_fd(const kvs_queue *queue) {
    return queue != NULL ? queue->event_descriptor : -1;
}

// Submit and drain --------------------------------------------------------------------------------

static struct job *make_job(kvs_operation operation, uint64_t ticket, const kvs_key *keys,
                            size_t key_count, size_t more_byte_count) {
    if ((keys == NULL && key_count != 0) || key_count > SIZE_MAX / 4 / sizeof *keys ||
        more_byte_count > SIZE_MAX / 4) {
        return NULL;
    }
    struct job *job = malloc(sizeof *job + key_count * sizeof *keys + more_byte_count);
    if (job == NULL) {
        return NULL;
    }
    memset(job, 0, sizeof *job);
    job->completion.operation = operation;
    job->completion.ticket = ticket;
    // Keys have no alignment of their own, so they come last.
    kvs_key *copied = (kvs_key *)(job->copies + more_byte_count);
    if (key_count != 0) {
        memcpy(copied, keys, key_count * sizeof *keys);
    }
    job->keys = copied;
    job->key_count = key_count;
    return job;
}

static kvs_status submit(kvs_queue *queue, struct job *job, uint32_t deadline_milliseconds) {
    if (job == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    uint64_t milliseconds = deadline_milliseconds != 0 ? deadline_milliseconds
                                                       : queue->client->deadline_milliseconds;
    job->deadline = kvsi_now() + milliseconds * KVSI_NANOSECONDS_PER_MILLISECOND;
    (void)pthread_mutex_lock(&queue->mutex);
    bool full = queue->job_count >= queue->depth;
    if (!full) {
        queue->job_count += 1;
        push(&queue->waiting, job);
        (void)pthread_cond_signal(&queue->submitted);
    }
    (void)pthread_mutex_unlock(&queue->mutex);
    if (full) {
        free(job);
        return KVS_BUSY;
    }
    return KVS_OK;
}

/// Checks what every submit must; the guard comes first, as the mutex may be held for ever in a
/// forked child.
static kvs_status check_submit(const kvs_queue *queue, const void *keys, size_t key_count) {
    if (queue == NULL || (keys == NULL && key_count != 0)) {
        return KVS_INVALID_ARGUMENT;
    }
    return kvsi_fork_guard_tripped(&queue->fork_guard) ? KVS_FORKED : KVS_OK;
}

kvs_status kvs_queue_submit_get(kvs_queue *queue, uint64_t ticket, const kvs_key *keys,
                                size_t key_count, const kvs_destination *destinations,
                                kvs_get_result *results, uint32_t deadline_milliseconds) {
    kvs_status status = check_submit(queue, keys, key_count);
    if (status != KVS_OK) {
        return status;
    }
    if (key_count != 0 && (destinations == NULL || results == NULL)) {
        return KVS_INVALID_ARGUMENT;
    }
    size_t span_count = 0;
    for (size_t index = 0; index < key_count; index += 1) {
        span_count += destinations[index].span_count;
    }
    if (key_count > SIZE_MAX / 64 || span_count > SIZE_MAX / 64) {
        return KVS_INVALID_ARGUMENT;
    }
    size_t byte_count = key_count * sizeof *destinations + span_count * sizeof(kvs_span);
    struct job *job = make_job(KVS_OPERATION_GET, ticket, keys, key_count, byte_count);
    if (job == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    kvs_destination *copied = (kvs_destination *)job->copies;
    kvs_span *spans = (kvs_span *)(job->copies + key_count * sizeof *destinations);
    for (size_t index = 0; index < key_count; index += 1) {
        size_t count = destinations[index].span_count;
        copied[index] = (kvs_destination){spans, count};
        if (count != 0) {
            memcpy(spans, destinations[index].spans, count * sizeof *spans);
            spans += count;
        }
    }
    job->destinations = copied;
    job->results = results;
    return submit(queue, job, deadline_milliseconds);
}

kvs_status kvs_queue_submit_put(kvs_queue *queue, uint64_t ticket, const kvs_key *key,
                                const kvs_const_span *parts, size_t part_count,
                                const kvs_put_options *options, uint32_t deadline_milliseconds) {
    kvs_status status = check_submit(queue, key, 1);
    if (status != KVS_OK) {
        return status;
    }
    if ((parts == NULL && part_count != 0) || part_count > SIZE_MAX / 64) {
        return KVS_INVALID_ARGUMENT;
    }
    struct job *job = make_job(KVS_OPERATION_PUT, ticket, key, 1, part_count * sizeof *parts);
    if (job == NULL) {
        return KVS_OUT_OF_MEMORY;
    }
    if (part_count != 0) {
        memcpy(job->copies, parts, part_count * sizeof *parts);
    }
    job->parts = (const kvs_const_span *)job->copies;
    job->part_count = part_count;
    if (options != NULL) {
        job->options = *options;
    }
    return submit(queue, job, deadline_milliseconds);
}

kvs_status kvs_queue_submit_lookup(kvs_queue *queue, uint64_t ticket, const kvs_key *keys,
                                   size_t key_count, int longest_prefix,
                                   kvs_lookup_record *records, uint32_t deadline_milliseconds) {
    kvs_status status = check_submit(queue, keys, key_count);
    if (status != KVS_OK) {
        return status;
    }
    if (!longest_prefix && key_count != 0 && records == NULL) {
        return KVS_INVALID_ARGUMENT;
    }
    struct job *job = make_job(longest_prefix ? KVS_OPERATION_LOOKUP_PREFIX : KVS_OPERATION_LOOKUP,
                               ticket, keys, key_count, 0);
    if (job != NULL) {
        job->records = records;
    }
    return submit(queue, job, deadline_milliseconds);
}

kvs_status kvs_queue_submit_delete(kvs_queue *queue, uint64_t ticket, const kvs_key *keys,
                                   size_t key_count, uint32_t deadline_milliseconds) {
    kvs_status status = check_submit(queue, keys, key_count);
    if (status != KVS_OK) {
        return status;
    }
    struct job *job = make_job(KVS_OPERATION_DELETE, ticket, keys, key_count, 0);
    return submit(queue, job, deadline_milliseconds);
}

size_t kvs_queue_drain(kvs_queue *queue, kvs_completion *completions, size_t capacity) {
    size_t count = 0;
    if (queue == NULL || completions == NULL || kvsi_fork_guard_tripped(&queue->fork_guard)) {
        return 0;
    }
    (void)pthread_mutex_lock(&queue->mutex);
    while (count < capacity && queue->finished.first != NULL) {
        struct job *job = pop(&queue->finished);
        completions[count] = job->completion;
        count += 1;
        queue->job_count -= 1;
        free(job);
    }
    if (queue->finished.first == NULL) {
        uint64_t value;
        ssize_t received = read(queue->event_descriptor, &value, sizeof value);
        (void)received;  // nothing to clear is fine
    }
    (void)pthread_mutex_unlock(&queue->mutex);
    return count;
}
