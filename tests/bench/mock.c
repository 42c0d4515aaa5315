// The upstream of the bench: chat completions at once, from one thread, over HTTP/1.1 with keep-alive.
//
//     mock PORT
//
// The request's body says what comes back:
//     "max_tokens": N          N content chunks when streamed, and completion_tokens = N
//     "seed": MS               milliseconds before an answer, and between two chunks; absent or 0: none; -1: the whole stream at once
//     "stream", "include_usage" as in OpenAI's API
// Without delay each chunk is still a write of its own, the streams taking turns, as a real server's are. GET /stats tells what was served.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WHEEL_SLOTS = 8192, REQUEST_MAX = 64 << 20, OUTPUT_HIGH = 1 << 20, PROMPT_TOKENS = 25 };
enum mode { IDLE, ANSWER_LATER, STREAMING };

typedef struct client {
    int fd, epoll_out, dead;
    char *in;
    int in_len, in_cap;
    char *out;
    int out_len, out_sent, out_cap;
    enum mode mode;
    int tokens, tokens_left, delay_ms, at_once, with_usage, role_sent;
    int scheduled;        // is in the ready list or on the wheel: exactly one of them, once
    struct client *next;  // there
} client;

static int epoll_fd;
static client *wheel[WHEEL_SLOTS], *ready_first, *ready_last;
static uint64_t wheel_ms;
static int wheel_count;
static unsigned long requests, chunks;

static const char TEXT[] =
    "A weir is a low dam across a river. It measures the water that passes and slows it without ever stopping it, so that "
    "everyone downstream still has some. A gateway can do the same with tokens: count each of them once, charge for exactly "
    "what was used, and let a tenant who has used up the month go on at a walk while the others run. This text is as long as "
    "a short answer is in practice, about one hundred tokens, so that sizes are honest.";
#define CHUNK(DELTA, FINISH) \
    "{\"id\":\"chatcmpl-bench-0000000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock-model\"," \
    "\"choices\":[{\"index\":0,\"delta\":" DELTA ",\"logprobs\":null,\"finish_reason\":" FINISH "}]}"
static const char CHUNK_ROLE[] = CHUNK("{\"role\":\"assistant\",\"content\":\"\"}", "null");
static const char CHUNK_TOKEN[] = CHUNK("{\"content\":\" token\"}", "null");
static const char CHUNK_FINISH[] = CHUNK("{}", "\"stop\"");
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// ---- output ----

static void put(client *c, const char *data, int length) {
    if (c->out_len + length > c->out_cap) {
        c->out_cap = (c->out_len + length) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, length);
    c->out_len += length;
}

static void put_json(client *c, const char *body, int length) {
    char head[128];
    int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", length);
    put(c, head, n);
    put(c, body, length);
}

static void put_event(client *c, const char *json, int length) {
    char head[32];
    put(c, head, snprintf(head, sizeof head, "%x\r\ndata: ", length + 8));
    put(c, json, length);
    put(c, "\n\n\r\n", 4);
    chunks++;
}

static void forget(client *c) {
    free(c->in);
    free(c->out);
    free(c);
}

static void hang_up(client *c) {
    if (c->dead) return;
    c->dead = 1;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    if (!c->scheduled) forget(c);  // else whoever takes it from its list does
}

static void watch_output(client *c, int on) {
    if (c->epoll_out == on) return;
    c->epoll_out = on;
    struct epoll_event e = {.events = EPOLLIN | (on ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

// Send what there is. False when the client is gone (and perhaps freed).
static int flush(client *c) {
    while (c->out_sent < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            watch_output(c, 1);
            return 1;
        }
        if (n < 0) {
            hang_up(c);
            return 0;
        }
        c->out_sent += n;
    }
    c->out_sent = c->out_len = 0;
    watch_output(c, 0);
    return 1;
}

// ---- turns ----

static void take_turn_later(client *c) {
    if (c->scheduled) return;
    c->scheduled = 1;
    c->next = NULL;
    if (c->delay_ms <= 0) {
        if (ready_last) ready_last->next = c;
        else ready_first = c;
        ready_last = c;
        return;
    }
    uint64_t due = now_ms() + (c->delay_ms < WHEEL_SLOTS - 1 ? c->delay_ms : WHEEL_SLOTS - 1);
    if (due <= wheel_ms) due = wheel_ms + 1;
    if (due >= wheel_ms + WHEEL_SLOTS) due = wheel_ms + WHEEL_SLOTS - 1;
    c->next = wheel[due % WHEEL_SLOTS];
    wheel[due % WHEEL_SLOTS] = c;
    wheel_count++;
}

static void answer_whole(client *c) {
    char body[2048];
    int n = snprintf(body, sizeof body,
                     "{\"id\":\"chatcmpl-bench-0000000000000001\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock-model\","
                     "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},\"logprobs\":null,"
                     "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d},"
                     "\"system_fingerprint\":\"fp_mock\"}",
                     TEXT, PROMPT_TOKENS, c->tokens, PROMPT_TOKENS + c->tokens);
    put_json(c, body, n);
    requests++;
}

// Put the next chunk of a stream out. True when that was the last.
static int next_chunk(client *c) {
    if (!c->role_sent) {
        c->role_sent = 1;
        put_event(c, CHUNK_ROLE, sizeof CHUNK_ROLE - 1);
        return 0;
    }
    if (c->tokens_left > 0) {
        c->tokens_left--;
        put_event(c, CHUNK_TOKEN, sizeof CHUNK_TOKEN - 1);
        return 0;
    }
    put_event(c, CHUNK_FINISH, sizeof CHUNK_FINISH - 1);
    if (c->with_usage) {
        char json[400];
        int n = snprintf(json, sizeof json,
                         "{\"id\":\"chatcmpl-bench-0000000000000001\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock-model\","
                         "\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}",
                         PROMPT_TOKENS, c->tokens, PROMPT_TOKENS + c->tokens);
        put_event(c, json, n);
    }
    put(c, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 24);
    requests++;
    return 1;
}

static void read_requests(client *c);

static void finish(client *c) {
    c->mode = IDLE;
    if (flush(c)) read_requests(c);  // a pipelined one may be waiting
}

static void turn(client *c) {
    c->scheduled = 0;
    if (c->dead) {
        forget(c);
        return;
    }
    if (c->mode == ANSWER_LATER) {
        answer_whole(c);
        finish(c);
    } else if (c->mode == STREAMING) {
        if (c->out_len - c->out_sent > OUTPUT_HIGH) return;  // EPOLLOUT gives the next turn
        int last;
        do last = next_chunk(c);
        while (!last && c->at_once);
        if (last) finish(c);
        else if (flush(c) && !c->epoll_out) take_turn_later(c);
    }
}

// ---- input ----

static const char *value_of(const char *body, int length, const char *key) {
    const char *at = memmem(body, length, key, strlen(key));
    if (!at) return NULL;
    at += strlen(key);
    while (at < body + length && (*at == ' ' || *at == ':')) at++;
    return at < body + length ? at : NULL;
}

static int int_of(const char *body, int length, const char *key, int fallback) {
    const char *at = value_of(body, length, key);
    return at ? atoi(at) : fallback;
}

static int true_of(const char *body, int length, const char *key) {
    const char *at = value_of(body, length, key);
    return at && *at == 't';
}

static void begin(client *c, const char *body, int length) {
    c->tokens = c->tokens_left = int_of(body, length, "\"max_tokens\"", 100);
    int seed = int_of(body, length, "\"seed\"", 0);
    c->delay_ms = seed > 0 ? seed : 0;
    c->at_once = seed < 0;
    c->role_sent = 0;
    if (true_of(body, length, "\"stream\"")) {
        c->mode = STREAMING;
        c->with_usage = true_of(body, length, "\"include_usage\"");
        put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1);
        take_turn_later(c);
    } else if (c->delay_ms) {
        c->mode = ANSWER_LATER;
        take_turn_later(c);
    } else {
        answer_whole(c);
    }
}

static void answer_get(client *c) {
    char body[256];
    int n = strncmp(c->in, "GET /stats", 10) == 0
                ? snprintf(body, sizeof body, "{\"requests\":%lu,\"chunks\":%lu}", requests, chunks)
                : snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"mock-model\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"mock\"}]}");
    put_json(c, body, n);
}

// Answer every whole request in the buffer.
static void read_requests(client *c) {
    while (!c->dead && c->mode == IDLE) {
        c->in[c->in_len] = 0;
        char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
        if (!end) break;
        char *body = end + 4;
        int have = c->in_len - (int)(body - c->in), length = 0, chunked = 0;
        for (char *line = c->in; line < end; line = strchr(line, '\n') + 1) {
            if (!strncasecmp(line, "content-length:", 15)) length = atoi(line + 15);
            if (!strncasecmp(line, "transfer-encoding: chunked", 26)) chunked = 1;
        }
        if (chunked) {
            char *last = memmem(body, have, "0\r\n\r\n", 5);
            if (!last) break;
            length = (int)(last + 5 - body);
        }
        if (have < length) break;
        if (c->in[0] == 'G') answer_get(c);
        else begin(c, body, length);
        int used = (int)(body - c->in) + length;
        memmove(c->in, c->in + used, c->in_len - used);
        c->in_len -= used;
    }
    if (!c->dead && c->mode == IDLE) flush(c);
}

static void receive(client *c) {
    for (;;) {
        if (c->in_cap - c->in_len < 4096) {
            if (c->in_cap >= REQUEST_MAX) {
                hang_up(c);
                return;
            }
            c->in_cap *= 2;
            c->in = realloc(c->in, c->in_cap + 1);
        }
        int room = c->in_cap - c->in_len;
        ssize_t n = recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            hang_up(c);
            return;
        }
        c->in_len += n;
        if (n < room) break;
    }
    read_requests(c);
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        client *c = calloc(1, sizeof *c);
        c->fd = fd;
        c->in_cap = 8192;
        c->in = malloc(c->in_cap + 1);
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void give_turns(void) {
    uint64_t now = now_ms();
    while (wheel_ms < now) {
        wheel_ms++;
        client *c = wheel[wheel_ms % WHEEL_SLOTS];
        wheel[wheel_ms % WHEEL_SLOTS] = NULL;
        while (c) {
            client *next = c->next;
            wheel_count--;
            turn(c);
            c = next;
        }
    }
    client *c = ready_first;
    ready_first = ready_last = NULL;
    while (c) {
        client *next = c->next;
        turn(c);
        c = next;
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("mock: listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = listen_on(argc > 1 ? atoi(argv[1]) : 9100);
    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    wheel_ms = now_ms();
    struct epoll_event events[512];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 512, ready_first ? 0 : wheel_count ? 1 : 1000);
        for (int i = 0; i < n; i++) {
            client *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (events[i].events & EPOLLOUT) {
                if (!flush(c)) continue;
                if (!c->epoll_out && c->mode == STREAMING) take_turn_later(c);
            }
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
        }
        give_turns();
    }
}
