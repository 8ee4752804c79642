/* Which addresses `--allow-fetch` may connect to. */
#ifndef OMNI_SERVER_FETCH_ADDRESS_H
#define OMNI_SERVER_FETCH_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* An IPv4 or IPv6 address of the public Internet: no loopback, link-local, private, shared, multicast, reserved or documentation address, and none
 * that stands for an IPv4 address (IPv4-mapped, NAT64, 6to4, Teredo) or has a zone. */
bool fetch_address_is_public(const struct sockaddr *address, socklen_t size);

#endif
