package devservers

import (
	"context"
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/task"
)

// eachRedis runs do with the server and with its embedded imitation.
func eachRedis(t *testing.T, do func(t *testing.T, r *Redis, client *redis.Client)) {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	require.NoError(t, err)
	for name, program := range map[string]string{"server": program, "embedded": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, hook := testLog(t)
			r, err := startRedis(t.Context(), RedisConfig{DataDir: t.TempDir(), Log: log}, program)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, r.Stop(context.Background())) })
			require.Equal(t, program == "", r.Embedded)
			require.Equal(t, r.Embedded, len(hook.Entries) == 1, "a warning only for the imitation")
			options, err := redis.ParseURL(r.URL)
			require.NoError(t, err)
			client := redis.NewClient(options)
			t.Cleanup(func() { client.Close() })
			do(t, r, client)
		})
	}
}

func TestRedisRestartsEmptyOnTheSameAddress(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, r *Redis, client *redis.Client) {
		url := r.URL
		for _, again := range []func() error{
			func() error { return r.Restart(t.Context()) },
			func() error {
				done := r.Done()
				if err := r.Kill(syscall.SIGKILL); err != nil {
					return err
				}
				<-done
				return r.Restart(t.Context())
			},
		} {
			require.NoError(t, client.Set(t.Context(), "k", "v", 0).Err())
			require.NoError(t, again())
			require.Equal(t, url, r.URL)
			require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, 10*time.Second, 10*time.Millisecond)
			require.ErrorIs(t, client.Get(t.Context(), "k").Err(), redis.Nil)
		}
		require.NoError(t, r.Stop(t.Context()))
		require.NoError(t, r.Stop(t.Context()))
		require.Error(t, client.Ping(t.Context()).Err())
		require.Equal(t, task.CodeConflict, task.CodeOf(r.Restart(t.Context())))
	})
}

func TestRedisLetsKeysExpire(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, _ *Redis, client *redis.Client) {
		require.NoError(t, client.Set(t.Context(), "k", "v", time.Second).Err())
		require.Eventually(t, func() bool { return client.Exists(t.Context(), "k").Val() == 0 }, 10*time.Second, 20*time.Millisecond)
	})
}

func TestRedisKeepsNothingAndEvictsNothing(t *testing.T) {
	t.Parallel()
	r, err := StartRedis(t.Context(), RedisConfig{DataDir: t.TempDir()})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Stop(context.Background())) }()
	options, err := redis.ParseURL(r.URL)
	require.NoError(t, err)
	client := redis.NewClient(options)
	defer client.Close()
	for setting, want := range map[string]string{"maxmemory-policy": "noeviction", "appendonly": "no", "save": "", "bind": "127.0.0.1"} {
		require.Equal(t, want, client.ConfigGet(t.Context(), setting).Val()[setting], setting)
	}
}

func TestRedisRefusesAPortInUse(t *testing.T) {
	t.Parallel()
	eachRedis(t, func(t *testing.T, r *Redis, _ *redis.Client) {
		options, err := redis.ParseURL(r.URL)
		require.NoError(t, err)
		addr, err := net.ResolveTCPAddr("tcp", options.Addr)
		require.NoError(t, err)
		_, err = startRedis(t.Context(), RedisConfig{DataDir: t.TempDir(), Port: addr.Port, Log: r.cfg.Log}, r.program)
		require.Equal(t, task.CodeUnavailable, task.CodeOf(err))
		require.ErrorContains(t, err, options.Addr)
	})
}

func TestRedisThatDoesNotHeedSIGTERMIsKilled(t *testing.T) {
	t.Parallel()
	r, err := StartRedis(t.Context(), RedisConfig{DataDir: t.TempDir()})
	require.NoError(t, err)
	done := r.Done()
	require.NoError(t, r.Kill(syscall.SIGSTOP))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.NoError(t, r.Stop(ctx))
	<-done
}

func TestRedisConfigValidate(t *testing.T) {
	t.Parallel()
	for _, cfg := range []RedisConfig{{}, {DataDir: "x", Port: -1}, {DataDir: "x", Port: 65536}} {
		_, err := StartRedis(t.Context(), cfg)
		require.Equal(t, task.CodeInvalid, task.CodeOf(err))
	}
}
