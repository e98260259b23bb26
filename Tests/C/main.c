// SPDX-License-Identifier: Apache-2.0
//
// Tests of libkvstore. usage: kvstore-tests [PART OF A CASE'S NAME]
// The environment names what is outside: STUB_SERVER (a path), and, for the daemon under test,
// KVSTORED_UNIX and KVSTORED_TCP (addresses as kvs_open takes them).
#include "check.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int check_failure_count;
const char *check_case_name = "";

void check_status(kvs_status status, kvs_status expected, const char *text, const char *file,
                  int line) {
    if (status != expected) {
        check_failure_count += 1;
        fprintf(stderr, "%s:%d: %s: %s is \"%s\" (%d), not \"%s\"\n", file, line, check_case_name,
                text, kvs_status_text(status), (int)status, kvs_status_text(expected));
    }
}

uint64_t now_milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static void run_stub(const char *behaviour, const char *socket_path, const char *ready_path,
                     int input) {
    const char *stub = getenv("STUB_SERVER");
    if (dup2(input, 0) < 0) {
        die("dup2");
    }
    execlp("python3", "python3", stub != NULL ? stub : "Tests/C/stub_server.py", "--behaviour",
           behaviour, "--listen-unix-socket", socket_path, "--ready-file", ready_path,
           (char *)NULL);
    die("python3");
}

struct server server_start(const char *behaviour) {
    static int number;
    struct server server = {0};
    char socket_path[128], ready_path[160], text[256] = "";
    int ends[2];
    struct stat status;
    number += 1;
    snprintf(socket_path, sizeof socket_path, "/tmp/kvstore-test-%d-%d.sock", getpid(), number);
    snprintf(ready_path, sizeof ready_path, "%s.ready", socket_path);
    if (pipe(ends) != 0) {
        die("pipe");
    }
    server.process_id = fork();
    if (server.process_id == 0) {
        close(ends[1]);
        run_stub(behaviour, socket_path, ready_path, ends[0]);
    }
    close(ends[0]);
    server.input = ends[1];
    uint64_t end = now_milliseconds() + 20000;
    while (stat(ready_path, &status) != 0) {
        if (now_milliseconds() > end) {
            fprintf(stderr, "the stub server does not start\n");
            exit(2);
        }
        usleep(5000);
    }
    FILE *file = fopen(ready_path, "r");
    if (file == NULL || fgets(text, sizeof text, file) == NULL) {
        die(ready_path);
    }
    fclose(file);
    unlink(ready_path);
    const char *port = strstr(text, "\"tcpPort\": ");
    snprintf(server.unix_address, sizeof server.unix_address, "unix:%s", socket_path);
    snprintf(server.tcp_address, sizeof server.tcp_address, "tcp:127.0.0.1:%d",
             port != NULL ? atoi(port + 11) : 0);
    return server;
}

void server_stop(struct server *server) {
    if (server->process_id != 0) {
        close(server->input);
        waitpid(server->process_id, NULL, 0);
        unlink(server->unix_address + 5);
    }
    server->process_id = 0;
}

bool server_under_test(struct server *server) {
    const char *unix_address = getenv("KVSTORED_UNIX");
    const char *tcp_address = getenv("KVSTORED_TCP");
    *server = (struct server){0};
    if (unix_address == NULL || tcp_address == NULL) {
        return false;
    }
    snprintf(server->unix_address, sizeof server->unix_address, "%s", unix_address);
    snprintf(server->tcp_address, sizeof server->tcp_address, "%s", tcp_address);
    return true;
}

kvs_client *open_client(const char *address, uint32_t flags, uint32_t deadline_milliseconds) {
    kvs_options options = KVS_OPTIONS_INIT;
    kvs_client *client = NULL;
    options.flags = flags;
    options.deadline_milliseconds = deadline_milliseconds;
    CHECK_STATUS(kvs_open(address, &options, &client), KVS_OK);
    if (client == NULL) {
        exit(2);
    }
    return client;
}

kvs_key key_numbered(uint32_t number) {
    kvs_key key = {{0}};
    memcpy(key.bytes, &number, sizeof number);
    key.bytes[31] = 0x5a;
    return key;
}

void fill(uint8_t *bytes, size_t byte_count, uint32_t seed) {
    for (size_t index = 0; index < byte_count; index += 1) {
        seed = seed * 1664525u + 1013904223u;
        bytes[index] = (uint8_t)(seed >> 24);
    }
}

void parse_hex(const char *text, uint8_t *bytes, size_t byte_count) {
    for (size_t index = 0; index < byte_count; index += 1) {
        unsigned int value = 0;
        while (*text == ' ') {
            text += 1;
        }
        CHECK(sscanf(text, "%2x", &value) == 1);
        bytes[index] = (uint8_t)value;
        text += 2;
    }
}

int main(int argument_count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"keys", test_keys},           {"wire", test_wire},
        {"vectors", test_vectors},     {"honest", test_honest},
        {"shared", test_shared},       {"streaming", test_streaming},
        {"hostile", test_hostile},     {"deadlines", test_deadlines},
        {"back-off", test_back_off},   {"fork", test_fork},
        {"queue", test_queue},         {"daemon", test_daemon},
        {"codec", test_codec},
    };
    int case_count = 0;
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index += 1) {
        if (argument_count > 1 && strstr(cases[index].name, arguments[1]) == NULL) {
            continue;
        }
        uint64_t start = now_milliseconds();
        check_case_name = cases[index].name;
        cases[index].run();
        printf("  %-10s %6llu ms\n", cases[index].name,
               (unsigned long long)(now_milliseconds() - start));
        fflush(stdout);
        case_count += 1;
    }
    printf("%d cases, %d failed checks\n", case_count, check_failure_count);
    return check_failure_count == 0 && case_count != 0 ? 0 : 1;
}
