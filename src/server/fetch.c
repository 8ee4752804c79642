#include "server/fetch.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "server/fetch_address.h"

enum { URL_BYTES = 8192, CONNECT_SECONDS = 10, SLOW_SECONDS = 15, SLOW_BYTES = 1000, WAIT_MS = 50 };

typedef struct download {
    exchange *x;
    bytes body;
    size_t most, heads; /* bytes that the body may have; that heads had */
    bool too_large, overloaded, gone;
} download;

bool fetch_open(void) {
    return curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

void fetch_close(void) {
    curl_global_cleanup();
}

/* ---- what is held ---- */

static bool charge(exchange *x, size_t n) {
    if (atomic_fetch_add(&x->s->body_bytes, n) + n > x->s->p.max_bodies) {
        atomic_fetch_sub(&x->s->body_bytes, n);
        return false;
    }
    x->fetched += n;
    return true;
}

static void give_back(exchange *x, size_t n) {
    atomic_fetch_sub(&x->s->body_bytes, n);
    x->fetched -= n;
}

void fetch_forget(exchange *x) {
    give_back(x, x->fetched);
    x->fetches = 0;
    x->fetched_size = 0;
    x->fetch_until = 0;
}

/* ---- callbacks of libcurl ---- */

static size_t take_bytes(char *data, size_t one, size_t n, void *arg) {
    download *d = arg;
    n *= one;
    if (n > d->most - d->body.size) {
        d->too_large = true;
        return 0;
    }
    if (!charge(d->x, n)) {
        d->overloaded = true;
        return 0;
    }
    const size_t before = d->body.size;
    bytes_add(&d->body, data, n);
    if (d->body.failed) {
        give_back(d->x, n - (d->body.size - before));
        d->overloaded = true;
        return 0;
    }
    return n;
}

static size_t take_head(char *data, size_t one, size_t n, void *arg) {
    (void)data;
    download *d = arg;
    n *= one;
    d->heads += n;
    d->too_large |= d->heads > FETCH_HEADS;
    return d->too_large ? 0 : n;
}

/* About once a second, and as bytes come: those of redirects' bodies, too, which take_bytes does not see. */
static int look(void *arg, curl_off_t expected, curl_off_t now, curl_off_t up, curl_off_t up_now) {
    (void)expected, (void)up, (void)up_now;
    download *d = arg;
    d->gone = exchange_gone(d->x);
    d->too_large |= now > (curl_off_t)d->most;
    return d->gone || d->too_large;
}

/* The only place where sockets are made: what is not let through here is not connected to. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a) {
    (void)arg;
    if (purpose != CURLSOCKTYPE_IPCXN || !fetch_address_is_public(&a->addr, a->addrlen)) {
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* ---- one URL ---- */

/* NULL, or what is wrong with it. */
static const char *wrong_url(const json_t *url) {
    const char *text = json_string_value(url);
    if (json_string_length(url) > URL_BYTES || strlen(text) != json_string_length(url)) {
        return "is longer than 8192 bytes, or has a NUL in it";
    }
    CURLU *u = curl_url();
    char *zone = NULL;
    const char *wrong = !u ? "cannot be read: out of memory" : NULL;
    if (u && curl_url_set(u, CURLUPART_URL, text, CURLU_DISALLOW_USER) != CURLUE_OK) {
        wrong = "is no http or https URL, or has a user's name in it";
    } else if (u && curl_url_get(u, CURLUPART_ZONEID, &zone, 0) == CURLUE_OK) {
        wrong = "has an address with a zone";
    }
    curl_free(zone);
    curl_url_cleanup(u);
    return wrong;
}

static bool set_options(CURL *c, download *d, const char *url, struct curl_slist *headers, double seconds) {
    CURLcode e = CURLE_OK;
    /* e stays the first error: an option that this libcurl lacks must not pass unseen. */
#define SET(option, value) e = e != CURLE_OK ? e : curl_easy_setopt(c, option, value)
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 1L);
    SET(CURLOPT_MAXREDIRS, (long)FETCH_REDIRECTS);
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_PROXY, ""); /* none, whatever the environment says: it would resolve names for us */
    SET(CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_HTTPHEADER, headers);
    SET(CURLOPT_USERAGENT, "omni");
    SET(CURLOPT_FAILONERROR, 1L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* a name that is still being looked up holds nobody up when the time is over */
    SET(CURLOPT_TIMEOUT_MS, (long)(1000 * seconds) + 1);
    SET(CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    SET(CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
    SET(CURLOPT_LOW_SPEED_TIME, (long)SLOW_SECONDS);
    SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)d->most);
    SET(CURLOPT_WRITEFUNCTION, take_bytes);
    SET(CURLOPT_WRITEDATA, d);
    SET(CURLOPT_HEADERFUNCTION, take_head);
    SET(CURLOPT_HEADERDATA, d);
    SET(CURLOPT_XFERINFOFUNCTION, look);
    SET(CURLOPT_XFERINFODATA, d);
    SET(CURLOPT_NOPROGRESS, 0L);
#undef SET
    return e == CURLE_OK;
}

/* What an address that is not public answered, or whether there is one, cannot be told from the error. */
static void tell_failure(const download *d, const char *where, CURLcode e, long status) {
    exchange *x = d->x;
    if (d->too_large || e == CURLE_FILESIZE_EXCEEDED) {
        reply_error(x, 413, where, "request_too_large", "%s: what the URL names is larger than a request may be with all that it brings (--max-body)",
                    where);
    } else if (d->overloaded || e == CURLE_OUT_OF_MEMORY) {
        reply_error(x, 503, where, "overloaded", "%s: the server holds as much of its clients as it may", where);
    } else {
        char why[96];
        if (e == CURLE_HTTP_RETURNED_ERROR || e == CURLE_OK) {
            snprintf(why, sizeof why, "its server answered with status %ld", status);
        } else if (e == CURLE_OPERATION_TIMEDOUT) {
            snprintf(why, sizeof why, "it took too long");
        } else if (e == CURLE_TOO_MANY_REDIRECTS) {
            snprintf(why, sizeof why, "there were more than %d redirects", FETCH_REDIRECTS);
        } else if (e == CURLE_PEER_FAILED_VERIFICATION) {
            snprintf(why, sizeof why, "its certificate is not to be trusted");
        } else if (e == CURLE_UNSUPPORTED_PROTOCOL || e == CURLE_LOGIN_DENIED || e == CURLE_URL_MALFORMAT) {
            snprintf(why, sizeof why, "it led to what is no http or https URL or answer, or to one with a user's name");
        } else {
            snprintf(why, sizeof why, "no public host answers there");
        }
        reply_error(x, 400, where, "fetch_failed", "%s: the URL could not be fetched: %s; send the bytes as a data: URL in base64", where, why);
    }
}

/* Waits for one of the server's places. False: the time is over or the client is gone. */
static bool take_place(exchange *x) {
    while (atomic_fetch_add(&x->s->fetching, 1) >= FETCH_AT_ONCE) {
        atomic_fetch_sub(&x->s->fetching, 1);
        if (exchange_gone(x) || server_now() > x->fetch_until) {
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000L}, NULL);
    }
    return true;
}

/* The bytes as a data: URL, or NULL once an error has been answered. */
static json_t *fetch(exchange *x, const char *url, const char *where) {
    const size_t brought = x->body_size + x->fetched_size;
    download d = {.x = x, .most = x->s->p.max_body > brought ? x->s->p.max_body - brought : 0};
    CURLcode e = CURLE_OPERATION_TIMEDOUT;
    long status = 0;
    if (take_place(x)) {
        CURL *c = curl_easy_init();
        struct curl_slist *headers = curl_slist_append(NULL, "Accept-Encoding: identity");
        const double left = x->fetch_until - server_now();
        e = !c || !headers ? CURLE_OUT_OF_MEMORY : CURLE_OPERATION_TIMEDOUT;
        if (c && headers && left > 0) {
            e = set_options(c, &d, url, headers, left) ? curl_easy_perform(c) : CURLE_OUT_OF_MEMORY;
            curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        }
        curl_slist_free_all(headers);
        curl_easy_cleanup(c);
        atomic_fetch_sub(&x->s->fetching, 1);
    } else {
        d.overloaded = true;
    }
    const size_t raw = d.body.size, coded = (raw + 2) / 3 * 4;
    const bool good = e == CURLE_OK && status >= 200 && status <= 299;
    json_t *text = NULL;
    if (good && charge(x, coded)) {
        json_t *base64 = base64_value("", 0, d.body.data, raw);
        text = base64 ? json_pack("s+", "data:application/octet-stream;base64,", json_string_value(base64)) : NULL;
        json_decref(base64);
        x->fetched_size += raw; /* what is charged is given back with the exchange, also without a text */
    }
    give_back(x, raw);
    bytes_free(&d.body);
    if (!text) {
        d.overloaded |= good;
        tell_failure(&d, where, e, status);
    }
    return text;
}

/* ---- where URLs stand ---- */

static bool is_remote(const json_t *v) {
    const char *s = json_string_value(v);
    return s && (strncasecmp(s, "http://", 7) == 0 || strncasecmp(s, "https://", 8) == 0);
}

static bool fetch_value(exchange *x, json_t *holder, const char *key, const char *where) {
    const json_t *url = json_object_get(holder, key);
    if (!is_remote(url)) {
        return true;
    }
    if (!x->s->p.allow_fetch) {
        reply_error(
            x, 400, where, "invalid_value",
            "%s: nothing is fetched from the network, unless the server is started with --allow-fetch; send the bytes as a data: URL in base64",
            where);
        return false;
    }
    const char *wrong = wrong_url(url);
    if (wrong || x->fetches >= FETCH_URLS) {
        reply_error(x, 400, where, "invalid_value", "%s: %s", where, wrong ? wrong : "more than 32 URLs in one request");
        return false;
    }
    x->fetches++;
    x->fetch_until = x->fetch_until > 0 ? x->fetch_until : server_now() + FETCH_SECONDS;
    json_t *data = fetch(x, json_string_value(url), where);
    if (data && json_object_set_new(holder, key, data) != 0) {
        reply_error(x, 503, where, NULL, "out of memory");
        return false;
    }
    return data != NULL;
}

bool fetch_part(exchange *x, json_t *part, const char *where) {
    static const char *const keys[] = {"image", "audio", "video", "image_url", "audio_url", "video_url", "url"};
    const char *type = json_string_value(json_object_get(part, "type"));
    char name[160];
    for (size_t i = 0; type && strcmp(type, "text") != 0 && i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(part, keys[i]);
        const bool inner = json_is_object(v);
        snprintf(name, sizeof name, "%s.%s%s", where, keys[i], inner ? ".url" : "");
        if (!fetch_value(x, inner ? v : part, inner ? "url" : keys[i], name)) {
            return false;
        }
    }
    return true;
}

bool fetch_messages(exchange *x, json_t *messages) {
    size_t i, k;
    json_t *message, *part;
    char where[80];
    json_array_foreach(messages, i, message) {
        json_array_foreach(json_object_get(message, "content"), k, part) {
            snprintf(where, sizeof where, "messages[%zu].content[%zu]", i, k);
            if (!fetch_part(x, part, where)) {
                return false;
            }
        }
    }
    return true;
}
