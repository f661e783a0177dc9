/* The benchmark's provider: one thread, one epoll, the JSON of argv[1] for every POST, so that it is never the bottleneck.
 * Below /fail/ every POST is answered with a 500 instead. GET answers the number of POSTs so far, of that kind. Prints its kernel-chosen loopback port first. It reads each
 * request whole (head and Content-Length body) and copes with pipelining. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 4096, MAX_REQUEST = 1 << 20 };

struct connection {
    char *bytes;
    size_t used, room;
};

static struct connection connections[MAX_FD];
static unsigned long answered, failed;
static const char refusal[] =
    "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    "{\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}";
static char completion[16384];
static size_t completion_size;

static void fail(const char *what) {
    fprintf(stderr, "upstream: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void hang_up(int fd) {
    free(connections[fd].bytes);
    memset(&connections[fd], 0, sizeof connections[fd]);
    close(fd);
}

/* A short answer into an empty socket buffer: a peer that does not read is a fault of the benchmark, and is cut off. */
static int answer(int fd, const char *bytes, size_t size) {
    return send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size ? 0 : -1;
}

/* Bytes of the first whole request in the buffer; 0 when more must come, -1 when it is none that we serve. */
static long request_size(const char *bytes, size_t used) {
    const char *end = memmem(bytes, used, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t size = (size_t)(end - bytes) + 4, body = 0;
    for (const char *line = bytes; line < end; line = (const char *)memmem(line, size, "\r\n", 2) + 2) {
        if (!strncasecmp(line, "Transfer-Encoding:", 18)) return -1;
        if (!strncasecmp(line, "Content-Length:", 15)) body = strtoul(line + 15, NULL, 10);
    }
    if (body > MAX_REQUEST) return -1;
    return size + body <= used ? (long)(size + body) : 0;
}

static int serve(int fd, struct connection *c) {
    size_t done = 0;
    long size;
    while ((size = request_size(c->bytes + done, c->used - done)) > 0) {
        const char *head = c->bytes + done;
        int posted = !strncmp(head, "POST ", 5), failing = !strncmp(head + (posted ? 5 : 4), "/fail/", 6);
        if (posted && failing) {
            if (answer(fd, refusal, sizeof refusal - 1)) return -1;
            failed++;
        } else if (posted) {
            if (answer(fd, completion, completion_size)) return -1;
            answered++;
        } else {
            char count[32], reply[128];
            int digits = snprintf(count, sizeof count, "%lu", failing ? failed : answered);
            int length = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", digits, count);
            if (answer(fd, reply, (size_t)length)) return -1;
        }
        done += (size_t)size;
    }
    memmove(c->bytes, c->bytes + done, c->used - done);
    c->used -= done;
    c->bytes[c->used] = 0;
    return size < 0 ? -1 : 0;
}

static int receive(int fd, struct connection *c) {
    if (c->room - c->used < 4096) {
        size_t room = c->room ? c->room * 2 : 16384;
        char *bytes = room > 2 * MAX_REQUEST ? NULL : realloc(c->bytes, room);
        if (!bytes) return -1;
        c->bytes = bytes;
        c->room = room;
    }
    ssize_t got = recv(fd, c->bytes + c->used, c->room - c->used - 1, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (!got) return -1;
    c->used += (size_t)got;
    c->bytes[c->used] = 0;
    return serve(fd, c);
}

int main(int argc, char **argv) {
    if (argc != 2) fail("usage: upstream JSON");
    completion_size = (size_t)snprintf(completion, sizeof completion,
                                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                                       strlen(argv[1]), argv[1]);
    if (completion_size >= sizeof completion) fail("answer too long");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0), on = 1;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1024)) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event)) fail("epoll_ctl");
    for (;;) {
        int n = epoll_wait(poll, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd != listener) {
                if (receive(fd, &connections[fd])) hang_up(fd);
                continue;
            }
            fd = accept(listener, NULL, NULL);
            if (fd < 0) continue;
            if (fd >= MAX_FD) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            event.data.fd = fd;
            if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
        }
    }
}
