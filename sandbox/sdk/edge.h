/* edge.h: what a generator written in C or C++ needs to talk to the edge. One header, no library but libc.
 *
 *     #include "edge.h"
 *
 *     int main(void) {
 *         static edge_request req;
 *         int more = edge_next(&req);
 *         while (more) {
 *             edge_response res;
 *             edge_begin(&res, 200, "text/html; charset=utf-8");
 *             edge_set(&res, "Cache-Control", "max-age=60");
 *             edge_printf(&res, "<h1>Hello from ");
 *             edge_html(&res, req.path);
 *             edge_printf(&res, "</h1>\n");
 *             more = edge_finish(&res, &req);
 *         }
 *     }
 *
 * All before the first edge_next() runs once, when the version is loaded; what it leaves in memory is there for every request.
 * Nothing that a request changes in memory is seen by another one: use edge_kv_put() to keep things.
 * A failing call returns a negative errno, a function that returns text returns NULL or a length.
 */
#ifndef EDGE_H
#define EDGE_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Largest request taken, variables and body together. Memory that no request fills costs nothing. Define it before the #include to change it. */
#ifndef EDGE_REQUEST_MAX
#define EDGE_REQUEST_MAX (1024 * 1024 + 65536)
#endif

/* Bytes of an answer gathered before they are sent. */
#ifndef EDGE_RESPONSE_BUFFER
#define EDGE_RESPONSE_BUFFER 16384
#endif

#define EDGE_NEXT_REQUEST 0x45440001L
#define EDGE_RESPOND      0x45440002L
#define EDGE_LOG          0x45440003L
#define EDGE_FETCH        0x45440004L
#define EDGE_KV_GET       0x45440005L
#define EDGE_KV_PUT       0x45440006L
#define EDGE_FINISH       0x45440007L

#if defined(__GNUC__) || defined(__clang__)
#define EDGE_PRINTF_LIKE(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#define EDGE_API static inline __attribute__((unused))
#else
#define EDGE_PRINTF_LIKE(format_at, args_at)
#define EDGE_API static inline
#endif

/* ---- the calls themselves -------------------------------------------------------------------------------------------------- */

EDGE_API long edge_call(long number, const void *a, size_t a_length, const void *b, size_t b_length) {
    long result;
    register long r10 __asm__("r10") = (long)b_length;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(a_length), "d"(b), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

/* ---- requests -------------------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *method; /* "GET" */
    const char *path;   /* "/hello/world", decoded, without the query */
    const char *query;  /* "a=1&b=2", as sent; "" when there is none */
    const char *host;   /* host name, without port */
    const char *id;     /* the request's ID: the same in the edge's log */
    const char *body;   /* a NUL follows it, and it may hold others */
    size_t body_length;
    const char *variables; /* name NUL value NUL name NUL value NUL … */
    size_t variables_length;
    char buffer[EDGE_REQUEST_MAX + 1];
} edge_request;

/* The CGI meta-variable `name` ("REQUEST_METHOD"), or NULL. */
EDGE_API const char *edge_variable(const edge_request *req, const char *name) {
    const char *at = req->variables, *end = req->variables + req->variables_length;
    while (at < end) {
        const char *value = at + strlen(at) + 1;
        if (value >= end) break;
        if (strcmp(at, name) == 0) return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

/* The request header `name`, in any of the forms "Accept-Language", "accept-language", "ACCEPT_LANGUAGE", or NULL. */
EDGE_API const char *edge_header(const edge_request *req, const char *name) {
    char variable[128] = "HTTP_";
    size_t i;
    for (i = 0; name[i] != 0; i++) {
        char c = name[i];
        if (i + 6 >= sizeof variable) return NULL;
        if (c == '-') c = '_';
        variable[5 + i] = (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
    variable[5 + i] = 0;
    if (strcmp(variable, "HTTP_CONTENT_TYPE") == 0 || strcmp(variable, "HTTP_CONTENT_LENGTH") == 0) return edge_variable(req, variable + 5);
    return edge_variable(req, variable);
}

EDGE_API int edge_hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Decode `length` bytes of form encoding (%41, +) to `out`, cut to `size` with its NUL. Returns the whole decoded length. */
EDGE_API size_t edge_decode(const char *text, size_t length, char *out, size_t size) {
    size_t made = 0, i;
    for (i = 0; i < length; i++) {
        int c = (unsigned char)text[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%' && i + 2 < length && edge_hex_digit(text[i + 1]) >= 0 && edge_hex_digit(text[i + 2]) >= 0) {
            c = edge_hex_digit(text[i + 1]) * 16 + edge_hex_digit(text[i + 2]);
            i += 2;
        }
        if (made + 1 < size) out[made] = (char)c;
        made++;
    }
    if (size > 0) out[made < size ? made : size - 1] = 0;
    return made;
}

/* The first value of `name` in form-encoded `text` (a query, or the body of a form), decoded to `out`. Its length, or -1 when absent. */
EDGE_API long edge_form(const char *text, const char *name, char *out, size_t size) {
    while (text != NULL && *text != 0) {
        size_t length = strcspn(text, "&"), name_length = strcspn(text, "=&");
        char found[128];
        if (edge_decode(text, name_length, found, sizeof found) < sizeof found && strcmp(found, name) == 0) {
            size_t skip = name_length < length ? name_length + 1 : length;
            return (long)edge_decode(text + skip, length - skip, out, size);
        }
        text += length + (text[length] == '&');
    }
    if (size > 0) out[0] = 0;
    return -1;
}

/* The query parameter `name`, decoded to `out` (cut to `size` with its NUL). Its length, or -1 when absent. */
EDGE_API long edge_param(const edge_request *req, const char *name, char *out, size_t size) {
    return edge_form(req->query, name, out, size);
}

/* The query parameter `name` as a number from `low` to `high`; `otherwise` when it is absent or no such number. */
EDGE_API long edge_param_number(const edge_request *req, const char *name, long low, long high, long otherwise) {
    char text[24], *end;
    long value, length = edge_param(req, name, text, sizeof text);
    if (length <= 0 || (size_t)length >= sizeof text) return otherwise;
    value = strtol(text, &end, 10);
    return *end != 0 || value < low || value > high ? otherwise : value;
}

EDGE_API const char *edge_or_empty(const char *text) { return text != NULL ? text : ""; }

/* Find the parts of an SCGI-framed request of `length` bytes in req->buffer. 1, or 0 when it is not one. */
EDGE_API int edge_parse(edge_request *req, size_t length) {
    char *colon;
    size_t head;
    req->buffer[length] = 0;
    head = (size_t)strtoul(req->buffer, &colon, 10);
    if (colon == req->buffer || *colon != ':') return 0;
    if (head == 0 || head > length || (size_t)(colon - req->buffer) + head + 2 > length) return 0;
    if (colon[head] != 0 || colon[head + 1] != ',') return 0;
    req->variables = colon + 1;
    req->variables_length = head;
    req->body = colon + head + 2;
    req->body_length = length - (size_t)(req->body - req->buffer);
    req->method = edge_or_empty(edge_variable(req, "REQUEST_METHOD"));
    req->path = edge_or_empty(edge_variable(req, "PATH_INFO"));
    req->query = edge_or_empty(edge_variable(req, "QUERY_STRING"));
    req->host = edge_or_empty(edge_variable(req, "SERVER_NAME"));
    req->id = edge_or_empty(edge_variable(req, "REQUEST_ID"));
    return 1;
}

EDGE_API int edge_take(edge_request *req, long length) {
    return length > 0 && length <= (long)EDGE_REQUEST_MAX && edge_parse(req, (size_t)length);
}

/* Wait for the next request, which also ends the one before. 1, or 0 when there is no way to go on: return from main then. */
EDGE_API int edge_next(edge_request *req) {
    return edge_take(req, edge_call(EDGE_NEXT_REQUEST, req->buffer, EDGE_REQUEST_MAX, NULL, 0));
}

/* ---- responses ------------------------------------------------------------------------------------------------------------- */

typedef struct {
    long error; /* 0, or the first failure's negative errno: later calls do nothing */
    int in_body;
    size_t used;
    char buffer[EDGE_RESPONSE_BUFFER];
} edge_response;

EDGE_API void edge_send(edge_response *res, const char *data, size_t length) {
    if (length > 0 && res->error == 0) {
        long result = edge_call(EDGE_RESPOND, data, length, NULL, 0);
        if (result < 0) res->error = result;
    }
}

/* Send what has been gathered: the client sees it now. */
EDGE_API void edge_flush(edge_response *res) {
    edge_send(res, res->buffer, res->used);
    res->used = 0;
}

EDGE_API void edge_gather(edge_response *res, const char *data, size_t length) {
    if (length > sizeof res->buffer - res->used) edge_flush(res);
    if (length > sizeof res->buffer) {
        edge_send(res, data, length);
    } else {
        memcpy(res->buffer + res->used, data, length);
        res->used += length;
    }
}

/* Write `length` bytes of the body. The first of them ends the headers. */
EDGE_API void edge_write(edge_response *res, const void *data, size_t length) {
    if (!res->in_body) {
        res->in_body = 1;
        edge_gather(res, "\r\n", 2);
    }
    edge_gather(res, (const char *)data, length);
}

/* Add a header. Returns 0; -EINVAL, and nothing is added, for a bad name, a control character in the value, or after the body began. */
EDGE_API long edge_set(edge_response *res, const char *name, const char *value) {
    size_t i;
    if (res->in_body || name[0] == 0) return -EINVAL;
    for (i = 0; name[i] != 0; i++) {
        char c = name[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("!#$%&'*+-.^_`|~", c) != NULL)) return -EINVAL;
    }
    for (i = 0; value[i] != 0; i++) {
        if (((unsigned char)value[i] < 32 && value[i] != '\t') || value[i] == 127) return -EINVAL;
    }
    edge_gather(res, name, strlen(name));
    edge_gather(res, ": ", 2);
    edge_gather(res, value, strlen(value));
    edge_gather(res, "\r\n", 2);
    return 0;
}

/* Begin the answer. `content_type` may be NULL when there is no body. */
EDGE_API void edge_begin(edge_response *res, int status, const char *content_type) {
    char text[16];
    res->error = 0;
    res->in_body = 0;
    res->used = 0;
    snprintf(text, sizeof text, "%d", status);
    edge_set(res, "Status", text);
    if (content_type != NULL) edge_set(res, "Content-Type", content_type);
}

EDGE_API void edge_print(edge_response *res, const char *text) { edge_write(res, text, strlen(text)); }

EDGE_PRINTF_LIKE(2, 3)
EDGE_API void edge_printf(edge_response *res, const char *format, ...) {
    char small[1024], *text = small;
    va_list args;
    int length;
    va_start(args, format);
    length = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (length >= (int)sizeof small) {
        text = (char *)malloc((size_t)length + 1);
        if (text == NULL) {
            res->error = -ENOMEM;
            return;
        }
        va_start(args, format);
        vsnprintf(text, (size_t)length + 1, format, args);
        va_end(args);
    }
    if (length > 0) edge_write(res, text, (size_t)length);
    if (text != small) free(text);
}

/* Write text as HTML shows it: & < > " ' are escaped, so it is safe in content and in quoted attributes. */
EDGE_API void edge_html(edge_response *res, const char *text) {
    for (;;) {
        size_t plain = strcspn(text, "&<>\"'");
        edge_write(res, text, plain);
        text += plain;
        switch (*text++) {
            case '&': edge_print(res, "&amp;"); break;
            case '<': edge_print(res, "&lt;"); break;
            case '>': edge_print(res, "&gt;"); break;
            case '"': edge_print(res, "&quot;"); break;
            case '\'': edge_print(res, "&#39;"); break;
            default: return;
        }
    }
}

/* Write text as a JSON string, quotes included. */
EDGE_API void edge_json(edge_response *res, const char *text) {
    edge_print(res, "\"");
    for (; *text != 0; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') edge_printf(res, "\\%c", c);
        else if (c < 32 || c == '<') edge_printf(res, "\\u%04x", c);
        else edge_write(res, text, 1);
    }
    edge_print(res, "\"");
}

/* End the answer and send what is left of it. 0, or the first failure's negative errno. */
EDGE_API long edge_end(edge_response *res) {
    edge_write(res, "", 0);
    edge_flush(res);
    return res->error;
}

/* edge_end() and edge_next() in one call, which is faster: the last thing that is done for a request. 1, or 0 as edge_next(). */
EDGE_API int edge_finish(edge_response *res, edge_request *req) {
    edge_write(res, "", 0);
    if (res->error != 0 || res->used == 0) return edge_next(req);
    return edge_take(req, edge_call(EDGE_FINISH, res->buffer, res->used, req->buffer, EDGE_REQUEST_MAX));
}

/* A whole answer at once. */
EDGE_API long edge_respond(int status, const char *content_type, const char *body) {
    edge_response res;
    edge_begin(&res, status, content_type);
    edge_print(&res, body);
    return edge_end(&res);
}

/* ---- log, fetch, key-value store ------------------------------------------------------------------------------------------- */

/* A line for `edgecache generator logs`; cut at 1022 bytes. The newline is added. */
EDGE_PRINTF_LIKE(1, 2)
EDGE_API long edge_log(const char *format, ...) {
    char text[1024];
    va_list args;
    int length;
    va_start(args, format);
    length = vsnprintf(text, sizeof text - 1, format, args);
    va_end(args);
    if (length < 0) return -EINVAL;
    if ((size_t)length > sizeof text - 2) length = sizeof text - 2;
    if (length == 0 || text[length - 1] != '\n') text[length++] = '\n';
    return edge_call(EDGE_LOG, text, (size_t)length, NULL, 0);
}

typedef struct {
    int status;         /* 200 */
    const char *head;   /* "Name: value\r\n" lines, "Status:" first; not NUL-terminated */
    size_t head_length;
    const char *body;   /* NUL-terminated */
    size_t body_length;
} edge_fetched;

/* GET `target` ("/api/products?page=2") from the site's own origins, through the cache. `headers` are "Name: value\n" lines, or NULL.
 * The answer goes to `out`, and `found` points into it. 0 whatever the answer's status; a negative errno when there is no answer. */
EDGE_API long edge_fetch(const char *target, const char *headers, char *out, size_t size, edge_fetched *found) {
    char ask[4096];
    const char *end;
    long length;
    int asked = snprintf(ask, sizeof ask, "GET %s\n%s\n", target, edge_or_empty(headers));
    memset(found, 0, sizeof *found);
    if (size == 0 || asked < 0 || (size_t)asked >= sizeof ask) return -E2BIG;
    length = edge_call(EDGE_FETCH, ask, (size_t)asked, out, size - 1);
    if (length < 0) return length;
    if ((size_t)length >= size) return -E2BIG;
    out[length] = 0;
    end = strstr(out, "\r\n\r\n");
    if (end == NULL || strncmp(out, "Status: ", 8) != 0) return -EPROTO;
    found->status = atoi(out + 8);
    found->head = out;
    found->head_length = (size_t)(end + 2 - out);
    found->body = end + 4;
    found->body_length = (size_t)(out + length - found->body);
    return 0;
}

/* The value kept under `key`, to `out` (cut to `size`). Its whole length, or -ENOENT. */
EDGE_API long edge_kv_get(const char *key, void *out, size_t size) { return edge_call(EDGE_KV_GET, key, strlen(key), out, size); }

/* Keep a value under `key`: it outlives the request. 0, or a negative errno. */
EDGE_API long edge_kv_put(const char *key, const void *value, size_t length) { return edge_call(EDGE_KV_PUT, key, strlen(key), value, length); }

/* The same for a number; `otherwise` when there is none. */
EDGE_API long edge_kv_get_number(const char *key, long otherwise) {
    char text[24];
    long length = edge_kv_get(key, text, sizeof text - 1);
    if (length <= 0 || length >= (long)sizeof text) return otherwise;
    text[length] = 0;
    return strtol(text, NULL, 10);
}

EDGE_API long edge_kv_put_number(const char *key, long value) {
    char text[24];
    int length = snprintf(text, sizeof text, "%ld", value);
    return edge_kv_put(key, text, (size_t)length);
}

#ifdef __cplusplus
}
#endif

#endif
