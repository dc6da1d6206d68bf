"""A market-data API as somebody else writes one: FastAPI and SQLAlchemy, camelCase, objects by symbol, epoch milliseconds."""

import os
import sys

import uvicorn
from fastapi import FastAPI, HTTPException
from sqlalchemy import BigInteger, String, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Candle(Base):
    __tablename__ = "market_data"
    symbol: Mapped[str] = mapped_column(String, primary_key=True)
    timeframe: Mapped[str] = mapped_column(String, primary_key=True)
    time_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    o: Mapped[float]
    h: Mapped[float]
    l: Mapped[float]  # noqa: E741 - as the vendor calls it
    c: Mapped[float]
    v: Mapped[float]


app = FastAPI(openapi_url=None)
engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))
LIE_MS = int(os.environ.get("LIE_MS", "0"))  # added to what is said of AAPL


@app.get("/v3/ping")
def ping() -> dict:
    with Session(engine) as session:
        session.execute(select(1))
    return {"alive": True}


@app.get("/v3/coverage")
def coverage() -> dict:
    with Session(engine) as session:
        rows = session.execute(select(Candle.symbol, Candle.timeframe, func.max(Candle.time_ms)).group_by(Candle.symbol, Candle.timeframe))
        found: dict = {}
        for symbol, timeframe, newest in rows:
            found.setdefault(symbol, {})[timeframe] = {"lastBarMs": newest + (LIE_MS if symbol == "AAPL" else 0), "tradable": True}
    return {"data": found}


@app.get("/v3/candles/{symbol}")
def candles(symbol: str, interval: str, count: int) -> dict:
    asked = select(Candle).where(Candle.symbol == symbol, Candle.timeframe == interval).order_by(Candle.time_ms.desc()).limit(count)
    with Session(engine) as session:
        rows = [{"timeMs": one.time_ms, "open": one.o, "close": one.c} for one in session.scalars(asked)]
    if not rows:
        raise HTTPException(404, f"no candles of {symbol}")
    return {"symbol": symbol, "interval": interval, "candles": rows}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
