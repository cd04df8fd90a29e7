//! Settings of a stack as a whole: what `/proc/sys/net` holds, with Linux's defaults. Settings of one interface are in `interface`.

/// Three numbers: least, initial, most.
pub type Range3 = [usize; 3];

/// `/proc/sys/net/ipv4`, `/proc/sys/net/ipv6` and `/proc/sys/net/core`, as far as this stack has them (ip-sysctl in Linux's documentation).
#[derive(Clone, Debug)]
pub struct Config {
    /// `ip_default_ttl`
    pub default_ttl: u8,
    /// `ip_local_port_range`
    pub local_ports: (u16, u16),
    /// `ip_unprivileged_port_start` is the socket layer's business; this only tells it the value.
    pub unprivileged_port_start: u16,
    /// `ip_nonlocal_bind`
    pub nonlocal_bind: bool,
    /// `ip_no_pmtu_disc`
    pub no_path_mtu_discovery: bool,
    /// `route/min_pmtu` of IPv4
    pub min_path_mtu: u32,
    /// `mtu_expires`, seconds
    pub path_mtu_expires_s: u64,
    /// `ipfrag_high_thresh`, bytes, for both families together
    pub reassembly_bytes: usize,
    /// `ipfrag_time`, seconds; IPv6 waits 60
    pub reassembly_s: u64,
    /// `icmp_echo_ignore_all`
    pub echo_ignore_all: bool,
    /// `icmp_echo_ignore_broadcasts`
    pub echo_ignore_broadcasts: bool,
    /// `icmp_msgs_per_sec`
    pub icmp_per_second: u32,
    /// `icmp_msgs_burst`
    pub icmp_burst: u32,
    /// `igmp_max_memberships`, for each socket
    pub max_memberships: usize,
    /// `neigh/*/gc_thresh3`
    pub max_neighbours: usize,
    /// `net.core.rmem_max`
    pub receive_max: usize,
    /// `net.core.wmem_max`
    pub send_max: usize,
    /// `net.core.rmem_default`
    pub receive_default: usize,
    /// `net.core.wmem_default`
    pub send_default: usize,
    /// `net.core.somaxconn`
    pub max_backlog: usize,
    /// `net.core.optmem_max`
    pub option_memory: usize,
    /// Bytes that all sockets of the stack may hold together (`tcp_mem` and `udp_mem` in one).
    pub memory_max: usize,
    /// TCP's own.
    pub tcp: TcpConfig,
}

/// `/proc/sys/net/ipv4/tcp_*`
#[derive(Clone, Debug)]
pub struct TcpConfig {
    /// `tcp_rmem`
    pub receive: Range3,
    /// `tcp_wmem`
    pub send: Range3,
    /// `tcp_window_scaling`
    pub window_scaling: bool,
    /// `tcp_timestamps`
    pub timestamps: bool,
    /// `tcp_sack`
    pub sack: bool,
    /// `tcp_dsack`
    pub dsack: bool,
    /// `tcp_recovery` bit 0: RACK
    pub rack: bool,
    /// `tcp_early_retrans`: tail loss probes
    pub tail_loss_probe: bool,
    /// `tcp_congestion_control`: `cubic` or `reno`
    pub congestion: crate::tcp::congestion::Algorithm,
    /// `tcp_syncookies`: 0 never, 1 on overflow, 2 always
    pub syn_cookies: u8,
    /// `tcp_max_syn_backlog`
    pub max_syn_backlog: usize,
    /// `tcp_syn_retries`
    pub syn_retries: u32,
    /// `tcp_synack_retries`
    pub synack_retries: u32,
    /// `tcp_retries1`
    pub retries1: u32,
    /// `tcp_retries2`
    pub retries2: u32,
    /// `tcp_orphan_retries`; 0 means 8
    pub orphan_retries: u32,
    /// `tcp_max_orphans`
    pub max_orphans: usize,
    /// `tcp_fin_timeout`, seconds
    pub fin_timeout_s: u64,
    /// `tcp_keepalive_time`, seconds
    pub keepalive_time_s: u32,
    /// `tcp_keepalive_intvl`, seconds
    pub keepalive_interval_s: u32,
    /// `tcp_keepalive_probes`
    pub keepalive_probes: u32,
    /// `tcp_max_tw_buckets`
    pub max_time_wait: usize,
    /// `tcp_tw_reuse`
    pub time_wait_reuse: bool,
    /// `tcp_rfc1337`
    pub rfc1337: bool,
    /// `tcp_abort_on_overflow`
    pub abort_on_overflow: bool,
    /// `tcp_moderate_rcvbuf`
    pub moderate_receive_buffer: bool,
    /// `tcp_slow_start_after_idle`
    pub slow_start_after_idle: bool,
    /// `tcp_challenge_ack_limit`, in a second
    pub challenge_acks_per_second: u32,
    /// `tcp_invalid_ratelimit`, milliseconds
    pub invalid_ratelimit_ms: u64,
    /// `tcp_notsent_lowat`
    pub not_sent_low_water: usize,
}

impl Default for TcpConfig {
    fn default() -> TcpConfig {
        TcpConfig {
            receive: [4096, 131_072, 6 << 20],
            send: [4096, 16 << 10, 4 << 20],
            window_scaling: true,
            timestamps: true,
            sack: true,
            dsack: true,
            rack: true,
            tail_loss_probe: true,
            congestion: crate::tcp::congestion::Algorithm::Cubic,
            syn_cookies: 1,
            max_syn_backlog: 512,
            syn_retries: 6,
            synack_retries: 5,
            retries1: 3,
            retries2: 15,
            orphan_retries: 0,
            max_orphans: 4096,
            fin_timeout_s: 60,
            keepalive_time_s: 7200,
            keepalive_interval_s: 75,
            keepalive_probes: 9,
            max_time_wait: 4096,
            time_wait_reuse: true,
            rfc1337: false,
            abort_on_overflow: false,
            moderate_receive_buffer: true,
            slow_start_after_idle: true,
            challenge_acks_per_second: 1000,
            invalid_ratelimit_ms: 500,
            not_sent_low_water: usize::MAX,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            default_ttl: 64,
            local_ports: (32768, 60999),
            unprivileged_port_start: 1024,
            nonlocal_bind: false,
            no_path_mtu_discovery: false,
            min_path_mtu: 552,
            path_mtu_expires_s: 600,
            reassembly_bytes: 4 << 20,
            reassembly_s: 30,
            echo_ignore_all: false,
            echo_ignore_broadcasts: true,
            icmp_per_second: 1000,
            icmp_burst: 50,
            max_memberships: 20,
            max_neighbours: 1024,
            receive_max: 212_992,
            send_max: 212_992,
            receive_default: 212_992,
            send_default: 212_992,
            max_backlog: 4096,
            option_memory: 131_072,
            memory_max: 64 << 20,
            tcp: TcpConfig::default(),
        }
    }
}
