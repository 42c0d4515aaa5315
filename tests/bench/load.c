// The load of the bench: chat completions over HTTP/1.1 from one thread; one JSON line of results.
//
//     load -p PORT [-P PATH] [-c CONNECTIONS] (-d SECONDS | -n REQUESTS) -b BODY_FILE [-H "Name: value"]... [-K KEY_FILE] [-R US] [-w PER_SECOND]
//
// -K sends requests with the keys of a file in turn, a key a line.
// -R paces each connection to one request every US microseconds; -w opens connections at this rate instead of all at once.
// Bodies with Content-Length and in chunks are followed to their end; a stream that ends without [DONE] is counted as `short`.
// The time to the first token is the time to the first "data:"; a gap is the time from one "data:" of a stream to its next.
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

enum { HEAD_MAX = 16384, LOST_MAX = 20000, GAP_UNIT_NS = 100000, GAPS = 200000 };
enum state { IDLE, IN_HEAD, IN_BODY };
enum framing { SIZE_LINE, DATA, DATA_END, TRAILER };

typedef struct {
    int fd, open;
    enum state state;
    char head[HEAD_MAX];
    int head_len, status, chunked;
    long content_left;  // -1: until the connection ends
    enum framing framing;
    long chunk_left;
    uint64_t sent_ns, first_ns, last_ns, due_ns;
    int data_match, done_match, events, done;
} connection;

static int port = 9100, connection_count = 32, ramp_per_s;
static double seconds;
static long request_limit, pace_us;
static char **requests;  // one for each key; they take turns
static int request_count;
static size_t *request_lens;
static struct sockaddr_in target;
static int epoll_fd, stopping, open_now, open_max;
static long started, finished, failed, refused, lost, events_all, short_streams, bytes_all, statuses[600];
static uint64_t *latencies, *first_tokens;
static long sample_count, sample_cap, gaps[GAPS], gap_count;  // gaps by their length

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void drop(connection *c) {
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
}

static int reach(connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&target, sizeof target)) {
        close(c->fd);
        c->fd = -1;
        return 0;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    return 1;
}

static void give_up(connection *c, uint64_t pause_ns) {
    failed++;
    lost++;
    c->state = IDLE;
    if (c->open) {
        c->open = 0;
        open_now--;
    }
    c->due_ns = now_ns() + pause_ns;
}

static void start(connection *c) {
    if (stopping || (request_limit && started >= request_limit)) return;
    if (c->fd < 0 && !reach(c)) {
        give_up(c, 10000000);
        return;
    }
    started++;
    c->sent_ns = now_ns();
    c->first_ns = 0;
    c->state = IN_HEAD;
    c->head_len = c->status = c->chunked = c->events = c->done = c->data_match = c->done_match = 0;
    c->content_left = -1;
    c->framing = SIZE_LINE;
    c->chunk_left = 0;
    c->open = 1;
    if (++open_now > open_max) open_max = open_now;
    const char *request = requests[started % request_count];
    size_t request_len = request_lens[started % request_count];
    for (size_t sent = 0; sent < request_len;) {
        ssize_t n = send(c->fd, request + sent, request_len - sent, MSG_NOSIGNAL);
        if (n <= 0) {
            drop(c);
            give_up(c, 10000000);
            return;
        }
        sent += n;
    }
}

static void record(connection *c, uint64_t now) {
    if (sample_count == sample_cap) {
        sample_cap = sample_cap ? sample_cap * 2 : 65536;
        latencies = realloc(latencies, sample_cap * sizeof *latencies);
        first_tokens = realloc(first_tokens, sample_cap * sizeof *first_tokens);
    }
    latencies[sample_count] = now - c->sent_ns;
    first_tokens[sample_count++] = (c->first_ns ? c->first_ns : now) - c->sent_ns;
}

static void finish(connection *c) {
    uint64_t now = now_ns();
    c->state = IDLE;
    c->open = 0;
    open_now--;
    finished++;
    if (c->status > 0 && c->status < 600) statuses[c->status]++;
    if (c->status / 100 != 2) refused++;
    else {
        record(c, now);
        events_all += c->events;
        if (c->events && !c->done) short_streams++;
    }
    if (pace_us) {
        c->due_ns = c->sent_ns + pace_us * 1000ull;
        if (c->due_ns < now) c->due_ns = now;
    } else start(c);
}

static void count_event(connection *c) {
    uint64_t now = now_ns();
    if (c->events++) {
        uint64_t gap = (now - c->last_ns) / GAP_UNIT_NS;
        gaps[gap < GAPS ? gap : GAPS - 1]++;
        gap_count++;
    } else c->first_ns = now;
    c->last_ns = now;
}

// Count the events in a piece of the body: "data:" at the start of a line, and "[DONE]" anywhere.
static void scan(connection *c, const char *p, long n) {
    static const char DATA_FIELD[] = "data:", DONE[] = "[DONE]";
    bytes_all += n;
    for (const char *end = p + n; p < end; p++) {
        if (c->data_match >= 0) {
            if (*p == DATA_FIELD[c->data_match]) {
                if (++c->data_match == 5) {
                    count_event(c);
                    c->data_match = -1;
                }
            } else c->data_match = -1;
        }
        if (*p == '\n') c->data_match = 0;
        if (*p == DONE[c->done_match]) {
            if (++c->done_match == 6) {
                c->done = 1;
                c->done_match = 0;
            }
        } else c->done_match = *p == DONE[0];
    }
}

// Follow the body's framing. True when it has ended.
static int follow(connection *c, const char *p, long n) {
    if (!c->chunked) {
        scan(c, p, n);
        if (c->content_left < 0) return 0;
        c->content_left -= n;
        return c->content_left <= 0;
    }
    while (n > 0) {
        if (c->framing == DATA) {
            long take = n < c->chunk_left ? n : c->chunk_left;
            scan(c, p, take);
            p += take;
            n -= take;
            if (!(c->chunk_left -= take)) c->framing = DATA_END;
            continue;
        }
        char ch = *p++;
        n--;
        if (c->framing == SIZE_LINE) {
            if (ch >= '0' && ch <= '9') c->chunk_left = c->chunk_left * 16 + ch - '0';
            else if ((ch | 32) >= 'a' && (ch | 32) <= 'f') c->chunk_left = c->chunk_left * 16 + (ch | 32) - 'a' + 10;
            else if (ch == '\n') c->framing = c->chunk_left ? DATA : TRAILER;
        } else if (ch == '\n') {
            if (c->framing == TRAILER) return 1;
            c->framing = SIZE_LINE;
        }
    }
    return 0;
}

// Take bytes of the head. Returns how many of them belonged to it, or -1 when it is not over yet.
static long take_head(connection *c, const char *p, long n) {
    int before = c->head_len, room = HEAD_MAX - 1 - c->head_len, take = n < room ? n : room;
    memcpy(c->head + c->head_len, p, take);
    c->head_len += take;
    c->head[c->head_len] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return -1;
    c->status = c->head_len > 12 ? atoi(c->head + 9) : 0;
    for (char *line = c->head; line < end; line = strchr(line, '\n') + 1) {
        if (!strncasecmp(line, "content-length:", 15)) c->content_left = atol(line + 15);
        if (!strncasecmp(line, "transfer-encoding:", 18) && strcasestr(line, "chunked") && strcasestr(line, "chunked") < strchr(line, '\n')) c->chunked = 1;
    }
    c->state = IN_BODY;
    return end + 4 - c->head - before;
}

static void receive(connection *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        int whole = c->state == IN_BODY && !c->chunked && c->content_left < 0;
        int waiting = c->state != IDLE;
        drop(c);
        if (whole) finish(c);
        else if (waiting) give_up(c, 1000000);
        else c->due_ns = now_ns();
        return;
    }
    const char *p = buffer;
    if (c->state == IDLE) return;
    if (c->state == IN_HEAD) {
        long used = take_head(c, p, n);
        if (used < 0) {
            if (c->head_len == HEAD_MAX - 1) {
                drop(c);
                give_up(c, 1000000);
            }
            return;
        }
        p += used;
        n -= used;
        if (!c->chunked && c->content_left == 0) {
            finish(c);
            return;
        }
    }
    if (n > 0 && follow(c, p, n)) finish(c);
}

// Start what is due, and return how long to wait for the next, in ns.
static uint64_t start_due(connection *all) {
    uint64_t now = now_ns(), next = now + 100000000;
    if (stopping) return next - now;
    for (int i = 0; i < connection_count; i++) {
        connection *c = &all[i];
        if (c->state != IDLE || c->open) continue;
        if (c->due_ns <= now) start(c);
        else if (c->due_ns < next) next = c->due_ns;
    }
    now = now_ns();
    return next > now ? next - now : 0;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double at(const uint64_t *sorted, double share) { return sample_count ? sorted[(long)((sample_count - 1) * share)] / 1000.0 : 0; }

static double gap_at(double share) {
    long left = (long)(gap_count * share), i = 0;
    while (i < GAPS - 1 && (left -= gaps[i]) > 0) i++;
    return gap_count ? i * (GAP_UNIT_NS / 1000.0) : 0;
}

static void report(double elapsed_s, long finished_in_time, double all_s) {
    qsort(latencies, sample_count, sizeof *latencies, ascending);
    qsort(first_tokens, sample_count, sizeof *first_tokens, ascending);
    printf("{\"requests_per_s\":%.1f,\"finished\":%ld,\"failed\":%ld,\"refused\":%ld,\"short\":%ld,\"seconds\":%.3f", finished_in_time / elapsed_s, finished, failed,
           refused, short_streams, elapsed_s);
    printf(",\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f", at(latencies, .5), at(latencies, .9), at(latencies, .99), at(latencies, 1));
    printf(",\"ttft_p50_us\":%.1f,\"ttft_p99_us\":%.1f", at(first_tokens, .5), at(first_tokens, .99));
    printf(",\"gap_p50_us\":%.0f,\"gap_p99_us\":%.0f,\"gap_max_us\":%.0f", gap_at(.5), gap_at(.99), gap_at(1));
    printf(",\"events\":%ld,\"events_per_s\":%.1f,\"megabytes\":%.2f,\"open_max\":%d,\"statuses\":{", events_all, events_all / all_s, bytes_all / 1e6, open_max);
    const char *comma = "";
    for (int i = 0; i < 600; i++)
        if (statuses[i]) {
            printf("%s\"%d\":%ld", comma, i, statuses[i]);
            comma = ",";
        }
    printf("}}\n");
}

static void make_request(const char *path, const char *headers, const char *body_file) {
    FILE *file = fopen(body_file, "rb");
    if (!file) {
        perror(body_file);
        exit(1);
    }
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *body = calloc(1, size + 1);
    size = fread(body, 1, size, file);
    fclose(file);
    while (size && body[size - 1] == '\n') size--;
    char *head;
    int n = asprintf(&head, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\nContent-Length: %ld\r\n%s\r\n", path, port,
                     size, headers);
    requests = realloc(requests, (request_count + 1) * sizeof *requests);
    request_lens = realloc(request_lens, (request_count + 1) * sizeof *request_lens);
    char *request = malloc(n + size);
    memcpy(request, head, n);
    memcpy(request + n, body, size);
    requests[request_count] = request;
    request_lens[request_count++] = n + size;
}

// One request for each line of a file: a key, sent as a bearer's.
static void make_requests(const char *path, const char *headers, const char *body_file, const char *key_file) {
    FILE *file = fopen(key_file, "r");
    if (!file) {
        perror(key_file);
        exit(1);
    }
    char key[512], all[5120];
    while (fgets(key, sizeof key, file)) {
        key[strcspn(key, "\r\n")] = 0;
        if (!*key) continue;
        snprintf(all, sizeof all, "%sAuthorization: Bearer %s\r\n", headers, key);
        make_request(path, all, body_file);
    }
    fclose(file);
}

int main(int argc, char **argv) {
    char headers[4096] = "";
    const char *path = "/v1/chat/completions", *body_file = NULL, *key_file = NULL;
    for (int o; (o = getopt(argc, argv, "p:P:c:d:n:b:H:K:R:w:")) != -1;) switch (o) {
            case 'p': port = atoi(optarg); break;
            case 'P': path = optarg; break;
            case 'c': connection_count = atoi(optarg); break;
            case 'd': seconds = atof(optarg); break;
            case 'n': request_limit = atol(optarg); break;
            case 'b': body_file = optarg; break;
            case 'K': key_file = optarg; break;
            case 'R': pace_us = atol(optarg); break;
            case 'w': ramp_per_s = atoi(optarg); break;
            case 'H':
                if (strlen(headers) + strlen(optarg) + 3 > sizeof headers) return 1;
                strcat(strcat(headers, optarg), "\r\n");
                break;
            default: return 1;
        }
    if (!body_file || (!request_limit && seconds <= 0)) {
        fprintf(stderr, "load: -b BODY_FILE and one of -d SECONDS, -n REQUESTS\n");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (key_file) make_requests(path, headers, body_file, key_file);
    else make_request(path, headers, body_file);
    if (!request_count) return 1;
    target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    epoll_fd = epoll_create1(0);
    connection *all = calloc(connection_count, sizeof *all);
    uint64_t begin = now_ns(), stop_at = seconds > 0 ? begin + (uint64_t)(seconds * 1e9) : UINT64_MAX, stopped = 0;
    uint64_t hard_end = seconds > 0 ? stop_at + 60000000000ull : UINT64_MAX;
    for (int i = 0; i < connection_count; i++) {
        all[i].fd = -1;
        all[i].due_ns = begin + (ramp_per_s ? (uint64_t)i * 1000000000ull / ramp_per_s : pace_us ? (uint64_t)i * pace_us * 1000ull / connection_count : 0);
    }
    long finished_in_time = 0;
    struct epoll_event events[512];
    for (;;) {
        uint64_t now = now_ns();
        if (!stopping && (now >= stop_at || lost > LOST_MAX)) {
            stopping = 1;
            stopped = now;
            finished_in_time = finished;
        }
        int all_started = request_limit && started >= request_limit;
        if (((stopping || all_started) && open_now == 0) || now > hard_end) break;
        struct timespec wait = {.tv_nsec = start_due(all)};
        int n = epoll_pwait2(epoll_fd, events, 512, &wait, NULL);
        for (int i = 0; i < n; i++) receive(events[i].data.ptr);
    }
    if (!stopped) {
        stopped = now_ns();
        finished_in_time = finished;
    }
    report((stopped - begin) / 1e9, finished_in_time, (now_ns() - begin) / 1e9);
    return 0;
}
